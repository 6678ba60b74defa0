"""CONTRIBUTING.md, followed step by step in a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package with everything added that CONTRIBUTING.md adds."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "letitgo", folder / "letitgo")
    for name, code in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
        if "studies/" in name:
            (folder / name).with_name("__init__.py").touch()
    [(name, old, new)] = re.findall(r"```diff\n# (\S+)\n-(.*?)\n\+(.*?)\n```", TEXT)
    listed = (folder / name).read_text()
    assert old in listed
    (folder / name).write_text(listed.replace(old, new))
    return folder


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "LETITGO_STORE": str(folder / "store")}
    command = [sys.executable, "-c", "from letitgo.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_a_study_is_three_files_and_a_line(copy):
    done = call(copy, "biases", "--help")
    assert "Find what it costs to freeze all biases" in " ".join(done.stdout.split())
    assert "--tolerance" in done.stdout
    small = ("--epochs", "1", "--widths", "8", "--examples", "100", "--seeds", "2", "--workers", "0")
    done = call(copy, "biases", *small, "--format", "json", "--report", "page")
    assert done.returncode == 0, done.stderr
    trained, frozen = json.loads(done.stdout)["rows"]
    assert frozen["drop_mean"] == pytest.approx(trained["accuracy_mean"] - frozen["accuracy_mean"])
    assert "Freezing all biases costs" in (copy / "page" / "biases.html").read_text()
    done = call(copy, "biases", "--tolerance", "-1")
    assert (done.returncode, done.stderr) == (2, "letitgo: tolerance is -1.0: give at least 0\n")


def test_a_network_is_a_function(copy):
    [command] = re.findall(r"```sh\n(letitgo train --model mynets.*?)\n```", TEXT)
    done = call(copy, *shlex.split(command)[1:], "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout


def test_a_task_is_a_class(copy):
    [command] = re.findall(r"```sh\n(letitgo map --task mytasks.*?)\n```", TEXT)
    done = call(copy, *shlex.split(command)[1:], "--workers", "0", "--format", "json", "--report", "task")
    assert done.returncode == 0, done.stderr
    base, *others = json.loads(done.stdout)["rows"]
    assert 0 < base["rmse_mean"] < 10
    assert base["drop_mean"] == 0
    for row in others:
        assert row["n"] == 2
        assert (row["drop_mean"] > 0) == (row["rmse_mean"] > base["rmse_mean"]) or abs(row["drop_mean"]) < row[
            "drop_ci95"
        ]
    page = (copy / "task" / "map.html").read_text()
    assert "test rmse" in page
    assert "rise in test rmse, per cent" in page
    assert "accuracy" not in page.partition("<h2>Method")[0].partition("All numbers")[0]
