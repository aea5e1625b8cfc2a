"""Fixtures of the command line's tests."""

from __future__ import annotations

import sys

import pytest

from autofit_ml import cli


@pytest.fixture
def command(monkeypatch, capsys):
    """Run ``autofit-ml`` in this process: (exit status, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["autofit-ml", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run
