"""The plugin for trainers' authors tells which promises a trainer keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WAYS = 5


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    plugin = ["-p", "letitgo.promises.plugin", "--pyargs", "letitgo.promises", "-p", "no:cacheprovider", "-q"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE.parent), str(HERE)))}
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, *plugin, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def table(output: str) -> dict[str, list[str]]:
    """What came of each promise, by the words that it begins with."""
    lines = output.partition("promises of freezing")[2].splitlines()
    return {
        " ".join(line.split()[:4]): line.split()[-WAYS:] for line in lines if line.endswith(("kept", "BROKEN", "–"))
    }


def test_a_trainer_that_keeps_all_promises_passes(tmp_path):
    done = run(tmp_path, "--trainer", "own_tasks:Resuming")
    assert done.returncode == 0, done.stdout
    assert table(done.stdout) == {
        "What is frozen keeps": ["kept"] * WAYS,
        "What moves when all": ["kept"] * WAYS,
        "What is frozen still": ["kept"] * WAYS,
        "Running statistics stay where": ["–"] * WAYS,
        "What is thawed after": ["kept"] * WAYS,
        "Training that is gone": ["kept", *["–"] * (WAYS - 1)],
    }


def test_a_trainer_that_thaws_what_is_frozen_is_told(tmp_path):
    done = run(tmp_path, "--trainer", "own_tasks:Thawing", "--frozen", "4")
    found = table(done.stdout)
    assert done.returncode == 1
    assert found["What is frozen keeps"] == found["What is frozen still"] == ["BROKEN"] * WAYS
    assert found["What is thawed after"] == ["kept"] * WAYS


@pytest.mark.parametrize(("task", "came"), [("Normed", "kept"), ("Drifting", "BROKEN")])
def test_running_statistics_are_looked_at(tmp_path, task, came):
    done = run(tmp_path, "--trainer", f"own_tasks:{task}", "-k", "statistics")
    assert done.returncode == (came == "BROKEN")
    assert table(done.stdout) == {"Running statistics stay where": [came] * WAYS}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--trainer names what to test, as in --trainer mytask:Task"),
        (("--trainer", "own_tasks:Whole", "--trainer-args", "{"), "trainer-args is '{': give a JSON object"),
    ],
)
def test_what_cannot_be_tested_is_refused(tmp_path, options, said):
    done = run(tmp_path, *options)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
