"""The plugin: its options, and the table of promises at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from letitgo.errors import BadRequest
from letitgo.promises.ways import WAYS
from letitgo.recipes.own import Own, open_own

SIGNS = {"passed": "kept", "failed": "BROKEN", "skipped": "–"}

_found: dict[str, dict[str, str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """What to test."""
    group = parser.getgroup("letitgo", "promises of freezing")
    group.addoption("--trainer", help="import path of a task, as in mytask:Task")
    group.addoption("--trainer-args", default="{}", help="arguments of the task, a JSON object")
    group.addoption("--frozen", default=None, help="pattern of what is frozen; the first layer by default")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each promise in each way to train."""
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", WAYS)


@pytest.fixture(scope="session")
def trainer(request: pytest.FixtureRequest) -> Own:
    """The task that trains."""
    path = request.config.getoption("--trainer")
    if path is None:
        pytest.exit("--trainer names what to test, as in --trainer mytask:Task", returncode=2)
    given = str(request.config.getoption("--trainer-args"))
    try:
        return open_own(path, json.loads(given))
    except json.JSONDecodeError:
        pytest.exit(f"trainer-args is {given!r}: give a JSON object", returncode=2)
    except BadRequest as error:
        pytest.exit(str(error), returncode=2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """Keep what came of a promise in a way."""
    outcome = yield
    report = outcome.get_result()
    promise = getattr(item, "function", None) and item.function.__doc__  # type: ignore[attr-defined]
    if promise and (report.when == "call" or report.skipped):
        way = getattr(item, "callspec", None)
        _found.setdefault(promise.rstrip("."), {})[way.params["way"] if way else "plain"] = SIGNS[report.outcome]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write the table."""
    if not _found:
        return
    width = max(map(len, _found))
    terminalreporter.section("promises of freezing")
    terminalreporter.write_line(" " * width + "".join(f"{way:>11}" for way in WAYS))
    for promise, kept in _found.items():
        terminalreporter.write_line(f"{promise:<{width}}" + "".join(f"{kept.get(way, '–'):>11}" for way in WAYS))
