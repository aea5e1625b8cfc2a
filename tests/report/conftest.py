import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def browse(tmp_path):
    """``browse(report, hash)``: the page's DOM as text once its script (and its timers) have run."""
    if CHROMIUM is None:
        pytest.skip("no chromium here to run the report's script in")

    def dump(report, state="", *, wait_ms=0):
        address = report.resolve().as_uri() + (f"#{state}" if state else "")
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'chromium'}",
            "--dump-dom",
        ]  # fmt: skip
        if wait_ms:
            command.append(f"--virtual-time-budget={wait_ms}")
        run = subprocess.run(
            [*command, address], capture_output=True, text=True, timeout=60, check=True
        )
        return run.stdout

    return dump
