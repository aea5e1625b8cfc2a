"""Ctrl-C while worker processes are being started."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from autofit_ml.runs.workers import processors, surroundings_of_workers


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="POSIX signals")
@pytest.mark.parametrize("blocked", [True, False])
def test_ctrl_c_takes_effect_when_workers_are_started(blocked):
    """Whichever thread the system hands it to: one that blocks it, or another."""

    def press() -> None:
        if not blocked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        os.kill(os.getpid(), signal.SIGINT)

    handler, steps = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), surroundings_of_workers():
        thread = threading.Thread(target=press)
        thread.start()
        thread.join()
        steps.append("started")
    assert steps == ["started"]
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7}, raising=False)
    assert processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1
