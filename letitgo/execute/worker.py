"""A worker process: jobs in, progress and outcomes out, one JSON value a line.

Nothing but descriptions travels: states go through the store. It ends when its standard input does. Where it cannot see
that, stopped or in native code, the guard beside it kills it: it never outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from typing import Any

INTERVAL = 0.2
"""Seconds between two reports of progress."""


def main() -> None:
    """Take jobs until the standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a network prints must not end up among the replies
    orders = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # whatever a network reads must not be a job
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen() -> None:
        for line in orders:
            jobs.put(json.loads(line))
        os._exit(0)  # the driver is gone, even if a job is under way

    threading.Thread(target=listen, daemon=True).start()

    def reply(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")

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
