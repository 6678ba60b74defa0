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
from typing import NamedTuple

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


PROGRAM = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from letitgo.cli.main import run
from letitgo.report import draw

render, done = draw.render, []
draw.render = lambda figure, form, of: render(figure, form, of) if form == "svg" else b""
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(arguments)
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""
"""Runs commands one after the other: a process for each would import for seconds."""
SMALL = ("--epochs", "1", "--widths", "8", "--examples", "100", "--seeds", "2", "--workers", "0")


class Done(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def done(copy):
    """What came of each command."""
    [network] = re.findall(r"```sh\n(letitgo train --model mynets.*?)\n```", TEXT)
    [task] = re.findall(r"```sh\n(letitgo map --task mytasks.*?)\n```", TEXT)
    commands = {
        "help": ["biases", "--help"],
        "biases": ["biases", *SMALL, "--format", "json", "--report", "page"],
        "refused": ["biases", "--tolerance", "-1"],
        "network": [*shlex.split(network)[1:], "--workers", "0"],
        "task": [*shlex.split(task)[1:], "--workers", "0", "--format", "json", "--report", "task"],
    }
    environment = {**os.environ, "PYTHONPATH": str(copy), "LETITGO_STORE": str(copy / "store")}
    program = [sys.executable, "-c", PROGRAM, json.dumps([*commands.values()])]
    ran = subprocess.run(program, capture_output=True, text=True, cwd=copy, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    return {name: Done(*told) for name, told in zip(commands, json.loads(ran.stdout), strict=True)}


def test_a_study_is_three_files_and_a_line(copy, done):
    told = done["help"].out
    assert "Find what it costs to freeze all biases" in " ".join(told.split())
    assert "--tolerance" in told
    code, out, err = done["biases"]
    assert code == 0, err
    trained, frozen = json.loads(out)["rows"]
    assert frozen["drop_mean"] == pytest.approx(trained["accuracy_mean"] - frozen["accuracy_mean"])
    assert "Freezing all biases costs" in (copy / "page" / "biases.html").read_text()
    code, _, err = done["refused"]
    assert (code, err) == (2, "letitgo: tolerance is -1.0: give at least 0\n")


def test_a_network_is_a_function(done):
    code, out, err = done["network"]
    assert code == 0, err
    assert "test accuracy" in out


def test_a_task_is_a_class(copy, done):
    code, out, err = done["task"]
    assert code == 0, err
    base, *others = json.loads(out)["rows"]
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
