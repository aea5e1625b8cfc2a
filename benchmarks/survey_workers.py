"""A thousand workers of dask.distributed without pixels, in one process; see survey.py.

Each speaks the protocol of a worker of one thread: it takes tasks, holds each for as long as a
recorded one took (divided by a factor), tells the scheduler, and hands the result to who asks.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import pickle
import random
import time
from pathlib import Path
from typing import Any

from distributed.core import Server, Status, connect
from distributed.protocol import to_serialize
from distributed.versions import get_versions

from autofit_ml.survey.tiles import TileOutcome

TYPES = {kind: pickle.dumps(kind) for kind in (str, TileOutcome)}


class Workers:
    """All of them; results are the same for every tile but its name."""

    def __init__(self, seconds: list[float], out: Path) -> None:
        self.seconds, self.out, self.random = seconds, out, random.Random(1)
        self.done = 0

    def result(self, key: str) -> Any:
        name = key.split("-", 1)[1].rsplit("-", 2)[0]
        if key.startswith("cell-"):
            return name
        return TileOutcome(name, 30, 25, 20, 3, 0, 61.2, 60.1, 900.0, True)

    async def work(self, scheduler: str, address: str, number: int) -> None:
        """One worker, until the scheduler goes."""
        comm = await connect(scheduler)
        await comm.write({
            "op": "register-worker", "reply": False, "address": address, "status": "running",
            "nthreads": 1, "name": number, "now": time.time(), "resources": {},
            "memory_limit": 4 << 30, "local_directory": "", "services": {}, "nanny": None,
            "pid": os.getpid(), "versions": get_versions(), "extra": {},
            "metrics": {"memory": 1 << 28, "managed_bytes": 0, "spilled_bytes":
                        {"memory": 0, "disk": 0}, "transfer": {"incoming_bytes": 0,
                        "incoming_count": 0, "incoming_count_total": 0, "outgoing_bytes": 0,
                        "outgoing_count": 0, "outgoing_count_total": 0}, "event_loop_interval":
                        0.02, "cpu": 100.0, "time": time.time(), "task_counts": {}, "bandwidth":
                        {"total": 1e8, "workers": {}, "types": {}}, "digests_total_since_heartbeat":
                        {}, "host_disk_io": {}, "num_fds": 10, "gil_contention": 0.0},
            "stimulus_id": f"worker-connect-{number}", "server_id": f"worker-{number}",
        }, serializers=["msgpack"])  # fmt: skip
        await comm.read()
        ready: collections.deque[dict] = collections.deque()
        wake = asyncio.Event()
        thread = asyncio.create_task(self.thread(comm, ready, wake))
        try:
            while True:
                messages = await comm.read()
                for message in messages if isinstance(messages, (list, tuple)) else [messages]:
                    if message["op"] == "compute-task":
                        ready.append(message)
                        wake.set()
                    elif message["op"] == "steal-request":
                        await self.yielded(comm, ready, message)
        except (OSError, asyncio.CancelledError):
            thread.cancel()

    async def yielded(self, comm: Any, ready: collections.deque[dict], message: dict) -> None:
        """Give a task up that has not begun."""
        mine = next((one for one in ready if one["key"] == message["key"]), None)
        if mine is not None:
            ready.remove(mine)
        await comm.write([{
            "op": "steal-response", "key": message["key"],
            "state": "executing" if mine is None else "ready",
            "stimulus_id": message["stimulus_id"],
        }])  # fmt: skip

    async def thread(self, comm: Any, ready: collections.deque[dict], wake: asyncio.Event) -> None:
        """Do one task after the other."""
        while True:
            while not ready:
                wake.clear()
                await wake.wait()
            task = ready.popleft()
            key, began = task["key"], time.time()
            await asyncio.sleep(self.random.choice(self.seconds))
            if key.startswith("cell-"):
                stem, _, number = self.result(key).rpartition(".")
                place = self.out / "cells" / stem
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number}.npz").touch()
            kind = str if key.startswith("cell-") else TileOutcome
            self.done += 1
            await comm.write([{
                "op": "task-finished", "status": "OK", "key": key, "run_id": task["run_id"],
                "nbytes": 300, "type": TYPES[kind], "typename": kind.__name__, "metadata": {},
                "thread": 1, "stimulus_id": f"task-finished-{self.done}",
                "startstops": [{"action": "compute", "start": began, "stop": time.time()}],
            }])  # fmt: skip


async def main() -> None:
    """Begin workers; they end with the scheduler."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scheduler")
    parser.add_argument("out", type=Path)
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument(
        "--seconds", type=json.loads, default=[1.0], help="of tasks, to choose from"
    )
    arguments = parser.parse_args()
    workers = Workers(arguments.seconds, arguments.out)

    async def get_data(comm: Any, keys: list[str], **_: Any) -> Status:
        data = {key: to_serialize(workers.result(key)) for key in keys}
        await comm.write({"status": "OK", "data": data})
        await comm.read()
        return Status.dont_reply

    server = Server({"get_data": get_data})
    await server.listen("tcp://0.0.0.0:0")
    port = server.port
    places = (f"tcp://127.1.{i // 250}.{i % 250 + 1}:{port}" for i in range(arguments.number))
    await asyncio.gather(*(workers.work(arguments.scheduler, at, i) for i, at in enumerate(places)))


if __name__ == "__main__":
    asyncio.run(main())
