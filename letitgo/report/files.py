"""Pictures as files: PNG, SVG and PDF, drawn by several processes side by side."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from letitgo.processes import Process
from letitgo.report.pictures import Picture
from letitgo.value import sha256


def to_files(pictures: Mapping[Path, Picture], workers: int = 0) -> list[str]:
    """Draw each picture as ``PATH.png``, ``PATH.pdf`` and ``PATH.svg``, unless these files are there already.

    Args:
        pictures: By path, whose folder is there.
        workers: Number of processes that draw, this one among them; 0 or 1: this one alone.

    Returns:
        Each picture as SVG.

    Raises:
        OSError: A file cannot be written.
    """
    left = [(path, picture) for path, picture in pictures.items() if not _is_there(path, picture)]
    count = max(1, min(workers, len(left)))
    own, *shares = (dict(left[i::count]) for i in range(count))
    with ExitStack() as others:
        for share in shares:
            others.enter_context(_drawn_elsewhere(share))
        for path, picture in own.items():
            _draw(path, picture)
    return [_svg(path, picture) for path, picture in pictures.items()]


@contextmanager
def _drawn_elsewhere(share: Mapping[Path, Picture]) -> Iterator[None]:
    """Another process draws meanwhile; what it could not draw is not there afterwards."""
    process = Process(__name__)
    order = pickle.dumps({path.absolute(): picture for path, picture in share.items()})
    try:
        with suppress(OSError):  # it has ended
            process.send(base64.b64encode(order).decode())
        yield
        list(process.lines())  # until it has ended
    finally:
        process.end()


def main(orders: TextIO, _: TextIO) -> None:
    """Draw a share of the pictures. A worker's main function."""
    with suppress(Exception):  # the driver tries again, and says what is wrong
        for path, picture in pickle.loads(base64.b64decode(orders.readline())).items():
            _draw(path, picture)


def _svg(path: Path, picture: Picture) -> str:
    """The picture as SVG, drawn unless it is there."""
    if not _is_there(path, picture):
        _draw(path, picture)
    text = _files(path)[-1].read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _draw(path: Path, picture: Picture) -> None:
    from letitgo.report.draw import render, to_figure

    figure, digest = to_figure(picture), _digest(picture)
    for file in _files(path):
        file.write_bytes(render(figure, file.suffix[1:], digest))
        figure.set_layout_engine("none")  # the layout of the first file does for all


def _is_there(path: Path, picture: Picture) -> bool:
    """Whether its files are there: the SVG, the last to be written, says of what."""
    files = _files(path)
    return all(file.is_file() for file in files) and _digest(picture) in files[-1].read_text(encoding="utf-8")


def _files(path: Path) -> list[Path]:
    """In the order of writing."""
    return [path.with_name(f"{path.name}.{form}") for form in ("png", "pdf", "svg")]


def _digest(picture: Picture) -> str:
    """What the files of a picture are made from."""
    code = Path(__file__).with_name("draw.py").read_text(encoding="utf-8")
    return sha256(f"{code}{version('matplotlib')}{picture!r}")
