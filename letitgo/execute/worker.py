"""A worker process: jobs in, progress and outcomes out, one JSON value a line.

Nothing but descriptions travels: states go through the store. It ends when the driver does. Where it cannot see that,
stopped or in native code, the process that started it kills it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
from typing import Any, TextIO

INTERVAL = 0.2
"""Seconds between two reports of progress."""


def main(orders: TextIO, replies: TextIO) -> None:
    """Take jobs until the driver is gone."""
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen() -> None:
        with contextlib.suppress(OSError):  # so ends a socket whose driver was killed with replies unread
            for line in orders:
                jobs.put(json.loads(line))
        os._exit(0)  # the driver is gone, even if a job is under way

    threading.Thread(target=listen, daemon=True).start()

    def reply(**message: Any) -> None:
        print(json.dumps(message), file=replies, flush=True)

    from letitgo.execute.jobs import answer

    while True:
        request = jobs.get()
        last = time.monotonic()
        reply(step=0)

        def on_step(done: int) -> None:
            nonlocal last
            if (now := time.monotonic()) - last > INTERVAL:
                last = now
                reply(step=done)

        reply(**answer(request, on_step))
