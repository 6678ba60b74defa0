"""What the package gives away: each name from one module, and to type checkers the same. Run it to write the stub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import letitgo

STUB = Path(letitgo.__file__).with_suffix(".pyi")


def stub() -> str:
    lines = [f"from letitgo.{home} import {name} as {name}\n" for name, home in letitgo._HOMES.items()]
    return "".join(sorted([*lines, "from letitgo.version import __version__ as __version__\n"]))


@pytest.mark.parametrize("name", letitgo.__all__)
def test_every_name_is_there(name):
    assert getattr(letitgo, name) is not None
    assert name in dir(letitgo)


def test_type_checkers_are_told_the_same_names():
    assert STUB.read_text() == stub(), "run: python tests/test_public_names.py"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'letitgo' has no attribute 'frieze'"):
        letitgo.frieze  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_looking_up_a_name_imports_its_module_alone():
    script = "import letitgo, sys; letitgo.BadRequest; print([m for m in sys.modules if m.startswith('letitgo.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['letitgo.errors', 'letitgo.code', 'letitgo.version']"


if __name__ == "__main__":
    STUB.write_text(stub())
