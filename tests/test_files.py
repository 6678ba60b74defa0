"""Files of strangers: taken, or refused in a sentence with the network as it was; ``LETITGO_FAULTS`` multiplies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import portrait
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import letitgo
from letitgo.errors import BadRequest
from letitgo.weights import magnitude_masks, sealed, seeded

TIMES = int(os.environ.get("LETITGO_FAULTS", "1"))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))


def plain() -> nn.Module:
    return seeded(net, 0)


def trained() -> nn.Module:
    module = seeded(net, 0)
    with torch.no_grad():
        module.get_parameter("0.weight")[:2] += 1
        module.get_parameter("3.bias").add_(1)
    return module


def write_subspace(path: Path) -> None:
    module = plain()
    with letitgo.hold(module, letitgo.subspace(module, 20, said=True)) as held, torch.no_grad():
        held.parameters()[0].fill_(0.5)
        letitgo.save_subspace(module, path)


KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[nn.Module, Path], Any], str]] = {
    "delta": (lambda path: letitgo.save(trained(), path, base=plain()), letitgo.load, "letitgo"),
    "ticket": (
        lambda path: letitgo.save_ticket(path, magnitude_masks(plain(), 0.5), {"recipe": {"lr": 0.1}, "step": 0}),
        letitgo.load_ticket,
        "letitgo-ticket",
    ),
    "subspace": (write_subspace, letitgo.load_subspace, "letitgo-subspace"),
}
"""What writes a file, what reads it into a network, and its kind."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp(request.param) / "whole"
    KINDS[request.param][0](path)
    KINDS[request.param][1](plain(), path)
    return request.param, path


def taken_or_refused(name: str, path: Path) -> bool:
    """Whether a file is taken."""
    module = plain()
    before = portrait(module)
    try:
        KINDS[name][1](module, path)
    except BadRequest:
        assert portrait(module) == before
        return False
    return True


@settings(max_examples=100 * TIMES)
@given(data=st.data())
def test_damage(data, kind):
    name, path = kind
    content, place = bytearray(path.read_bytes()), data.draw(st.floats(0, 1, exclude_max=True))
    at, patch = int(place * len(content)), data.draw(st.binary(min_size=1, max_size=8))
    how = data.draw(st.sampled_from(["noise", "cut", "over", "insert", "length"]))
    if how == "noise":
        content = bytearray(data.draw(st.binary(max_size=300)))
    elif how == "cut":
        content = content[:at]
    elif how == "length":
        content[:8] = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
    else:
        content[at : at + (len(patch) if how == "over" else 0)] = patch
    damaged = path.with_name("damaged")
    damaged.write_bytes(content)
    assert not taken_or_refused(name, damaged) or content == path.read_bytes() or how in ("over", "insert")


def opened(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        [text] = file.metadata().values()
        return json.loads(text)[0], {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from(["0.weight", "1.bias", "3.weight", "dense", "whole"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=4,
)
tensors = st.builds(
    lambda shape, dtype: torch.ones(shape).to(dtype),
    st.lists(st.integers(0, 30), max_size=2),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]),
)


@settings(max_examples=150 * TIMES)
@given(data=st.data())
def test_forgeries_with_a_right_seal(data, kind):
    name, path = kind
    about, stored = opened(path)
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.integers(0, 3)) == 0:
            key = data.draw(st.sampled_from([*stored, "0.weight", "z", "rest.0.weight"]))
            stored[key] = data.draw(tensors)
            continue
        part = about
        while True:
            key = data.draw(st.sampled_from([*part, "more"]))
            if not isinstance(part.get(key), dict) or not part[key] or data.draw(st.booleans()):
                break
            part = part[key]
        if data.draw(st.booleans()):
            part[key] = data.draw(anything)
        else:
            part.pop(key, None)
    forged = path.with_name("forged")
    save_file(stored, forged, {KINDS[name][2]: json.dumps([about, sealed.seal(about, stored)])})
    taken_or_refused(name, forged)


ODD = ["", "[]", "[" * 100_000, "{}", "[1, 2]", "[{}, 1, 2]", "[null, null]", '[{"format": 1}, 1]']


@pytest.mark.parametrize("text", ODD)
def test_metadata_of_another_form(text, kind):
    name, path = kind
    odd = path.with_name("odd")
    save_file(opened(path)[1], odd, {KINDS[name][2]: text})
    assert not taken_or_refused(name, odd)


def test_a_header_that_is_longer_than_the_file_is_refused(kind):
    name, path = kind
    huge = path.with_name("huge")
    with huge.open("wb") as file:
        file.write((1 << 40).to_bytes(8, "little"))
        file.truncate(1 << 34)  # takes no room on the disk
    assert not taken_or_refused(name, huge)


OLD = Path(__file__).parent / "data"
"""Files that were written when each kind had a reader and writer of its own."""


def counted() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view(parameter.shape) / 8)
    return module


def test_an_old_delta_is_read_and_written_the_same(tmp_path):
    module, expected = counted(), counted()
    with torch.no_grad():
        expected.get_parameter("0.weight")[1] += 1
        expected.get_parameter("3.bias")[2] = 5
    letitgo.load(module, OLD / "delta-1.safetensors")
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in module.state_dict().items())
    letitgo.save(module, tmp_path / "again", counted())
    again, before = opened(tmp_path / "again")[0], opened(OLD / "delta-1.safetensors")[0]
    assert {**again, "versions": None} == {**before, "versions": None}


def test_an_old_ticket_is_read():
    ticket = letitgo.read_ticket(OLD / "ticket-1.safetensors", counted())
    assert torch.equal(ticket.masks["0.weight"], torch.arange(24).view(6, 4) % 3 > 0)
    assert ticket.start == {"level": 1, "recipe": None}


def test_an_old_subspace_is_read():
    held = letitgo.load_subspace(counted(), OLD / "subspace-1.safetensors")
    assert [parameter.tolist() for parameter in held.parameters()] == [[0.0, 1.0, 2.0, 3.0, 4.0]]


def test_what_was_changed_in_an_old_ticket_is_noticed(tmp_path):
    content = bytearray((OLD / "ticket-1.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "changed").write_bytes(content)
    with pytest.raises(BadRequest, match="its contents are not what its digest says"):
        letitgo.read_ticket(tmp_path / "changed")
