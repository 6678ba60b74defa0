"""Two sets of weights compared, and put back by halves: which layers changed, and which changes carry the gain."""

from __future__ import annotations

import json
from math import ceil, log2, sqrt
from pathlib import Path

import pytest
import torch
from helpers import bits
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from letitgo import BadRequest, bisect, diff, load
from letitgo.cli.main import run
from letitgo.recipes import Recipe
from letitgo.weights import copied, load_state


def chain(length: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(length)))


def moved(module: nn.Module) -> dict[str, torch.Tensor]:
    """What the module was; every parameter of it has moved since."""
    before = copied(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    return before


@given(length=st.integers(1, 40), data=st.data())
def test_the_carriers_are_found_and_the_model_is_as_it_was(length, data):
    carry = data.draw(st.sets(st.integers(0, length - 1), max_size=5))
    module = chain(length)
    base = moved(module)
    tuned = bits(copied(module))

    def evaluate(now: nn.Module) -> float:
        return sum(not torch.equal(now[place].weight, base[f"{place}.weight"]) for place in carry)

    found = bisect(module, evaluate, base)
    assert found.carriers == tuple(str(place) for place in sorted(carry))
    assert (found.score, found.base_score, found.kept_score) == (len(carry), 0, len(carry))
    assert found.evaluations <= 2 + 2 * len(carry) * max(ceil(log2(length)), 1)
    assert bits(copied(module)) == tuned
    load_state(module, found.state)
    kept = set(diff(base, module).query("what == 'changed'")["layer"])
    assert kept == set(found.carriers)


def test_the_model_is_as_it_was_where_an_evaluation_raises():
    module = chain(4)
    base = moved(module)
    tuned, calls = bits(copied(module)), iter([1.0, 0.0, 1.0])
    with pytest.raises(StopIteration):
        bisect(module, lambda _: next(calls), base)
    assert bits(copied(module)) == tuned


def test_norms_go_back_with_their_layer_and_their_statistics():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    base = moved(module)
    module.train()(torch.randn(8, 2))
    seen = []

    def evaluate(now: nn.Module) -> float:
        seen.append(bits(copied(now)))
        return -float(torch.equal(now[2].weight, base["2.weight"]))

    found = bisect(module, evaluate, base)
    assert list(found.frame["layer"]) == ["0", "2"]
    assert found.carriers == ("2",)
    assert seen[1] == bits(base)
    assert {name for name, tensor in bits(found.state).items() if tensor != bits(base)[name]} == {"2.weight", "2.bias"}


def test_a_new_head_stays_and_what_did_not_change_is_not_tried():
    module = chain(3)
    base = {name: tensor for name, tensor in copied(module).items() if not name.startswith("2.")}
    with torch.no_grad():
        module[0].weight += 1
    found = bisect(module, lambda _: 0.0, base)
    assert dict(zip(found.frame["layer"], found.frame["what"], strict=True)) == {
        "0": "put back",
        "1": "same",
        "2": "new",
    }
    assert found.evaluations == 2


def test_bad_requests_to_bisect():
    module = chain(2)
    base = moved(module)
    with pytest.raises(BadRequest, match="tolerance is -1"):
        bisect(module, lambda _: 0.0, base, tolerance=-1)
    with pytest.raises(BadRequest, match="tolerance is 'a'"):
        bisect(module, lambda _: 0.0, base, tolerance="a")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="evaluate is None: give a function"):
        bisect(module, None, base)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="by is 'layers': did you mean layer"):
        bisect(module, lambda _: 0.0, base, by="layers")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="shares no tensor"):
        bisect(module, lambda _: 0.0, {"x": torch.zeros(1)})
    with pytest.raises(BadRequest, match="evaluate gives nan"):
        bisect(module, lambda _: float("nan"), base)
    with pytest.raises(BadRequest, match="evaluate gives a str"):
        bisect(module, lambda _: "good", base)


def test_a_difference_is_counted_and_measured(tmp_path):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Linear(2, 5))
    before = copied(module)
    with torch.no_grad():
        module[0].weight[0] += 3
        module[1].num_batches_tracked += 7
    after = copied(module) | {"3.weight": torch.zeros(4, 2), "4.weight": torch.zeros(2)}
    del after["2.weight"], after["2.bias"]
    torch.save({"model": {f"module.{name}": tensor for name, tensor in after.items()}}, tmp_path / "after.pt")
    frame = diff(before, tmp_path / "after.pt").set_index("layer")
    assert dict(frame["what"]) == {"0": "changed", "1": "changed", "2": "gone", "3": "other shape", "4": "new"}
    assert list(frame["values"]) == [8, 9, 6, 13, 2]
    assert frame["changed"]["0"] == 3
    assert frame["distance_l2"]["0"] == pytest.approx(sqrt(27 / 8))
    assert frame["distance_linf"]["0"] == pytest.approx(3)
    assert frame["relative"]["0"] == pytest.approx(
        sqrt(27 / float(before["0.weight"].square().sum() + before["0.bias"].square().sum()))
    )
    assert frame["distance_linf"]["1"] == 0  # a counter is no distance
    assert frame["changed"]["1"] == 1
    by_tensor = diff(before, tmp_path / "after.pt", by="tensor").set_index("tensor")
    assert by_tensor["what"]["3.bias"] == "same"
    assert by_tensor["changed"]["0.weight"] == 3
    assert set(diff(module, copied(module))["what"]) == {"same"}


def test_dtypes_may_differ_and_bits_count():
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0])}
    other = {"a": torch.tensor([1.0, 2.5], dtype=torch.float16), "b": torch.tensor([-0.0])}
    assert list(diff(state, other)["changed"]) == [1, 1]


@pytest.mark.parametrize(
    ("a", "b", "by", "said"),
    [
        ({"a": torch.zeros(1)}, {"b": torch.zeros(1)}, "layer", "the two share no tensor: one has 'a', the other 'b'"),
        ({"a": torch.zeros(1)}, {"a": torch.zeros(1)}, "layers", "by is 'layers': did you mean layer"),
        ({"a": torch.zeros(1)}, 3, "layer", "int holds no weights"),
        ({"a": torch.zeros(1)}, "nowhere.pt", "layer", "there is no file nowhere.pt"),
    ],
)
def test_bad_requests_to_diff(a, b, by, said):
    with pytest.raises(BadRequest, match=said):
        diff(a, b, by)


TINY = ["--widths", "16", "--depth", "2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Weights of a network that knows the digits, and before: its first layer was zero, its second almost the same."""
    folder, recipe = tmp_path_factory.mktemp("weights"), Recipe(widths="16", depth=2)
    module, split = recipe.network(), recipe.dataset.split("train")
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(split.batch(slice(0, 500))), split.labels[:500]).backward()
        optimizer.step()
    tuned = copied(module)
    base = tuned | {"fc1.weight": 0 * tuned["fc1.weight"], "fc2.weight": (1 + 1e-6) * tuned["fc2.weight"]}
    save_file(base, folder / "base.safetensors")
    save_file(tuned, folder / "tuned.safetensors")
    return folder / "base.safetensors", folder / "tuned.safetensors"


def test_the_command_finds_carriers_and_writes_what_is_left(files, tmp_path, capsys):
    base, tuned = files
    left = tmp_path / "left.safetensors"
    code = run(["bisect", str(base), str(tuned), *TINY, "--tolerance", "0", "--save", str(left), "--format", "json"])
    assert code == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["carriers"] == ["fc1"]
    assert answer["kept"] == answer["tuned"]
    module = Recipe(widths="16", depth=2).network()
    load(module, left, base=base)
    assert set(diff(base, module).query("what == 'changed'")["layer"]) == {"fc1"}
    assert run(["bisect", str(base), str(tuned), *TINY]) == 0
    assert "1 of 2 changed layers carry the gain (fc1)" in capsys.readouterr().out
    assert run(["bisect", str(tuned), str(base), *TINY]) == 0
    assert capsys.readouterr().out.startswith("the fine-tune has no gain to carry")


def test_bad_requests_to_the_commands(files, tmp_path, capsys):
    base, tuned = map(str, files)
    for arguments, said in (
        (["bisect", base, tuned], "does not fit the network 'fcn'"),
        (["bisect", base, tuned, *TINY, "--tolerance", "-1"], "tolerance is -1"),
        (["bisect", base, tuned, *TINY, "--lr", "1,2"], "bisect takes one recipe"),
        (["bisect", base, "nowhere", *TINY], "cannot be read"),
        (["bisect", base, tuned, *TINY, "--save", str(tmp_path)], "cannot be written"),
        (["diff", base, "nowhere"], "there is no file nowhere"),
        (["diff", base, str(tmp_path)], "holds no weights"),
    ):
        assert run(arguments) == 2
        assert said in capsys.readouterr().err


def test_a_file_of_something_else_is_refused(files, tmp_path, capsys):
    other = tmp_path / "text"
    for content in ("hi", "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1", "(lp0\n.", "\x80\x02}q\x00."):
        other.write_text(content, "latin-1")
        assert run(["diff", str(files[0]), str(other)]) == 2
        assert "letitgo: the weights" in (said := capsys.readouterr().err) or "holds no weights" in said


def test_diff_shows_what_differs(files, capsys):
    assert run(["diff", *map(str, files)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("2 of 3 layers differ, in ")
    assert "fc3" not in told
    assert run(["diff", *map(str, files), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["what"] for row in rows] == ["changed", "changed", "same"]
