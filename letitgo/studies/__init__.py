"""A room for each question: ``options`` (read for ``--help``, no torch), ``study`` (values and rows), ``report``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

STUDIES = (
    "map",
    "search",
    "advisers",
    "finetune",
    "fraction",
    "ticket",
    "carry",
    "dimension",
    "classifier",
    "align",
    "train",
)
"""Names of the studies: of the room, the command, the page and the document."""


def room(name: str) -> str:
    """The package of a study."""
    return f"letitgo.studies.{name}"


def class_name(name: str) -> str:
    """The class of a study: ``Map`` for ``map``, ``DeepLinear`` for ``deep-linear``."""
    return "".join(part.capitalize() for part in name.split("-"))


def find_options(name: str, package: str = "") -> Any:
    """The class of a study's options, without importing torch."""
    return getattr(import_module(f"{package or room(name)}.options"), f"{class_name(name)}Options")


def find_study(name: str, package: str = "") -> Any:
    """The class of a study."""
    return getattr(import_module(f"{package or room(name)}.study"), class_name(name))
