"""A study that is killed, twenty times over, and started again by the same command."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers import complaints

TIMES = 20
COMMAND = [sys.executable, "-c", "from letitgo.cli.main import main; main()", "map", "--seeds", "2", "--format", "csv"]
COMMAND += ["--freeze-at", "0,5", "--report", "none", "--store"]


def results(store):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in store.glob("*/*/**/*.json")}


@pytest.mark.slow
def test_kill_the_whole_process_group_at_random_moments(tmp_path):
    begin = time.monotonic()
    whole = subprocess.run([*COMMAND, str(tmp_path / "whole")], capture_output=True, check=True).stdout
    length = time.monotonic() - begin
    moments = random.Random(0)
    interrupted = 0
    for attempt in range(TIMES):
        store = tmp_path / f"store-{attempt}"
        process = subprocess.Popen(
            [*COMMAND, str(store)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(moments.uniform(0.05, 1.0) * length)
        os.killpg(process.pid, signal.SIGKILL)
        interrupted += process.wait() != 0
        finished = results(store)
        again = subprocess.run([*COMMAND, str(store)], capture_output=True, check=True)
        assert again.stdout == whole
        assert complaints(again.stderr.decode()) == ""
        now = results(store)
        assert {path: now[path] for path in finished} == finished
    print(f"{interrupted} of {TIMES} studies were interrupted; all ended with the same table")
    assert interrupted >= TIMES // 2
