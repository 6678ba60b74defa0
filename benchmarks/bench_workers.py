"""What a worker process takes to start and how much memory it has of its own: forked against started afresh."""

import json
import sys
import time
from pathlib import Path
from statistics import median

from letitgo.processes import Process

TIMES = 5
WORKERS = 4


def started(forked: bool) -> Process:
    """A worker that has answered once, so all is imported."""
    process = Process("letitgo.execute.worker", forked)
    process.send(json.dumps({"job": "none"}))
    replies = process.lines()
    assert "step" in next(replies)
    assert "error" in next(replies)
    return process


def share(process: Process) -> float:
    """MiB of memory, where what several processes share is divided among them."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> None:
    print(f"{'':>8} {'seconds to start':>17} {'MiB each':>9}   (median of {TIMES}; {WORKERS} workers side by side)")
    for forked in (False, True):
        started(forked).end()  # the server is up, the files are in memory
        seconds = []
        for _ in range(TIMES):
            begin = time.perf_counter()
            process = started(forked)
            seconds.append(time.perf_counter() - begin)
            process.end()
        together = [started(forked) for _ in range(WORKERS)]
        each = median(map(share, together))
        for process in together:
            process.end()
        print(f"{'forked' if forked else 'afresh':>8} {median(seconds):>17.3f} {each:>9.0f}")


if __name__ == "__main__":
    sys.exit("it reads memory from /proc, which is Linux's") if not Path("/proc/self/smaps_rollup").exists() else main()
