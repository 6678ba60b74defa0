"""The plugin for trainers' authors tells which promises a trainer keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from letitgo.promises import plugin

HERE = Path(__file__).parent
WAYS = 5


PLUGIN = ["-p", "letitgo.promises.plugin", "--pyargs", "letitgo.promises", "-p", "no:cacheprovider", "-q"]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs the plugin in this process: a process of its own imports for seconds."""
    monkeypatch.chdir(tmp_path)

    def ran(*options: str) -> tuple[int, str]:
        """Exit code and what was written."""
        monkeypatch.setattr(plugin, "_found", {})
        code = pytest.main(["-c", os.devnull, *PLUGIN, *options])
        return code, "".join(capfd.readouterr())

    return ran


def table(output: str) -> dict[str, list[str]]:
    """What came of each promise, by the words that it begins with."""
    lines = output.partition("promises of freezing")[2].splitlines()
    return {
        " ".join(line.split()[:4]): line.split()[-WAYS:] for line in lines if line.endswith(("kept", "BROKEN", "–"))
    }


def test_a_trainer_that_keeps_all_promises_passes(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE.parent), str(HERE)))}
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, *PLUGIN, "--trainer", "own_tasks:Resuming"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stdout
    assert table(done.stdout) == {
        "What is frozen keeps": ["kept"] * WAYS,
        "What moves when all": ["kept"] * WAYS,
        "What is frozen still": ["kept"] * WAYS,
        "Running statistics stay where": ["–"] * WAYS,
        "What is thawed after": ["kept"] * WAYS,
        "Training that is gone": ["kept", *["–"] * (WAYS - 1)],
    }


def test_a_trainer_that_thaws_what_is_frozen_is_told(run):
    code, out = run("--trainer", "own_tasks:Thawing", "--frozen", "4")
    found = table(out)
    assert code == 1
    assert found["What is frozen keeps"] == found["What is frozen still"] == ["BROKEN"] * WAYS
    assert found["What is thawed after"] == ["kept"] * WAYS


@pytest.mark.parametrize(("task", "came"), [("Normed", "kept"), ("Drifting", "BROKEN")])
def test_running_statistics_are_looked_at(run, task, came):
    code, out = run("--trainer", f"own_tasks:{task}", "-k", "statistics")
    assert code == (came == "BROKEN")
    assert table(out) == {"Running statistics stay where": [came] * WAYS}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--trainer names what to test, as in --trainer mytask:Task"),
        (("--trainer", "own_tasks:Whole", "--trainer-args", "{"), "trainer-args is '{': give a JSON object"),
    ],
)
def test_what_cannot_be_tested_is_refused(run, options, said):
    code, out = run(*options)
    assert code == 2
    assert said in out
    assert "Traceback" not in out
