"""Tables, tensors and data sets of one's own as data: what is read, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from letitgo.errors import BadRequest
from letitgo.plan import Evaluation
from letitgo.recipes import Recipe
from letitgo.recipes.data import open_data
from letitgo.recipes.splits import PADDING, UNKNOWN
from letitgo.recipes.steps import Length, Vocabulary
from letitgo.recipes.tasks import TASKS
from letitgo.value import dump, load

GOOD, BAD = "a good film", "what a poor , poor plot"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("LETITGO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def rows(count: int = 50) -> list[dict]:
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=(count, 2)).tolist()
    return [
        {"age": a, "size": 10 * b, "price": 100 + 20 * a, "good": int(a > b), "text": [BAD, GOOD][a > b], "id": i}
        for i, (a, b) in enumerate(numbers)
    ]


def write(path, columns: list[str], count: int = 50):
    """A table of some columns, in the form that its name asks for."""
    import pandas

    frame = pandas.DataFrame(rows(count))[columns]
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("end", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_of_numbers_are_features(end, tmp_path):
    path = write(tmp_path / f"table.{end}", ["age", "size", "price"])
    data = Recipe(data=str(path), target="price").dataset
    assert (data.kind, data.shape, data.classes, data.outputs, len(data.split("train"))) == ("features", (2,), 1, 1, 40)
    assert data.task == TASKS["regression"]
    train = data.split("train")
    batch = train.batch(slice(None))
    torch.testing.assert_close(batch.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.std(0, correction=0), torch.ones(2))
    assert float(train.labels.std(correction=0)) == pytest.approx(1, abs=1e-5)
    age, price = train.inputs[:, 0], train.in_units(train.labels)
    torch.testing.assert_close(price, 100 + 20 * age)


def test_a_fifth_is_held_out_at_random_and_always_the_same(tmp_path):
    path = write(tmp_path / "table.csv", ["id", "good"])
    one, other = (open_data(str(path), columns=(("target", "good"),)) for _ in range(2))
    held_out = one.split("test").inputs.flatten().tolist()
    assert len(held_out) == 10
    assert held_out == sorted(held_out) != [*range(40, 50)]
    assert one.key == other.key
    assert {*held_out} | {*one.split("train").inputs.flatten().tolist()} == {*range(50)}


def test_a_folder_may_have_files_for_training_and_for_testing(tmp_path):
    (folder := tmp_path / "set").mkdir()
    write(folder / "train.csv", ["age", "good"])
    write(folder / "test.csv", ["age", "good"], 9)
    data = Recipe(data=str(folder), target="good").dataset
    assert (len(data.split("train")), len(data.split("test")), data.classes) == (50, 9, 2)
    assert data.task == TASKS["classification"]


def test_texts_are_sequences_of_words_with_padding(tmp_path):
    path = tmp_path / "table.jsonl"
    texts = [*["a a a good film"] * 4, "bad", *["a film a"] * 4, "unseen"]
    lines = [json.dumps({"text": text, "y": "no" if i < 5 else "yes"}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    data = open_data(str(path))
    tokens = data.split("train").inputs
    assert (data.kind, data.shape, data.classes) == ("tokens", (5,), 2)
    assert tokens.dtype == torch.int64
    assert data.split("train").batch(slice(None)) is not None
    short = tokens[(tokens != PADDING).sum(1) == 3][0].tolist()
    assert short[0] == short[2] == 2  # the most frequent word
    assert short[3:] == [PADDING, PADDING]
    assert int(tokens.max()) < data.vocabulary
    few = open_data(str(path), Vocabulary(3), Length(2))
    assert (few.shape, few.vocabulary) == ((2,), 3)
    assert {*few.split("train").inputs.flatten().tolist()} == {PADDING, UNKNOWN, 2}
    assert few.key != data.key
    assert open_data(str(path), Length(5)) == data  # as long as the longest


def test_a_known_column_of_words_is_the_text(tmp_path):
    path = write(tmp_path / "table.csv", ["id", "text", "good"])
    data = Recipe(data=str(path), target="good").dataset
    assert (data.kind, data.shape) == ("tokens", (6,))
    assert data == Recipe(data=str(path), target="good", text="text").dataset


def test_whole_numbers_are_amounts_where_the_task_says_so(tmp_path):
    path = write(tmp_path / "table.csv", ["age", "id"])
    data = Recipe(data=str(path), target="id", task="regression").dataset
    train = data.split("train")
    assert data.classes == 1
    whole = train.in_units(train.labels)
    torch.testing.assert_close(whole, whole.round())
    assert len(whole.round().unique()) == 40
    digits = Recipe(task="regression").dataset
    assert digits.outputs == 1
    assert digits.split("train").labels.is_floating_point()
    assert digits.key != Recipe().dataset.key


def test_workers_read_the_same(tmp_path):
    path = write(tmp_path / "table.csv", ["age", "size", "price"])
    recipe = Recipe(data=str(path), target="price", metric="rmse", widths="4")
    [again] = load(json.loads(json.dumps(dump([recipe.dataset]))))
    assert again == recipe.dataset
    assert torch.equal(again.split("test").labels, recipe.dataset.split("test").labels)
    assert again.task.metric.name == "rmse"


REFUSED = {
    "target": ({"columns": ["age", "size"]}, {}, "it is not clear which column of .* is to be predicted"),
    "unknown target": (
        {"columns": ["age", "good"]},
        {"target": "god"},
        "no column 'god' to predict: did you mean good",
    ),
    "words": ({"columns": ["age", "text", "good", "id"]}, {"target": "good", "text": "age"}, "no column 'age' of text"),
    "classes": (
        {"columns": ["age", "price"]},
        {"target": "price", "task": "classification"},
        "classes are words or whole",
    ),
    "amounts": ({"columns": ["age", "text"]}, {"target": "text", "task": "regression"}, "a regression needs numbers"),
    "task": ({"columns": ["age", "good"]}, {"target": "good", "task": "next-word"}, "is not for features"),
    "few": ({"columns": ["age", "good"], "count": 5}, {"target": "good"}, "4 rows for training and 1 for testing"),
    "nothing": ({"columns": ["good"]}, {"target": "good"}, "no column besides 'good' to learn from"),
    "shift": ({"columns": ["age", "good"]}, {"target": "good", "shift": "invert"}, "shift is for images: .* features"),
    "length": ({"columns": ["age", "good"]}, {"target": "good", "length": 3}, "length is for tokens: .* features"),
    "noise": ({"columns": ["age", "price"]}, {"target": "price", "label_noise": 0.1}, "label-noise is for classes"),
    "loss": (
        {"columns": ["age", "price"]},
        {"target": "price", "loss": "cross_entropy"},
        "unknown loss 'cross_entropy'",
    ),
    "metric": ({"columns": ["age", "price"]}, {"target": "price", "metric": "f1_macro"}, "unknown metric 'f1_macro'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name, tmp_path):
    table, fields, said = REFUSED[name]
    path = write(tmp_path / "table.csv", **table)
    with pytest.raises(BadRequest, match=said):
        Recipe(data=str(path), **fields).dataset  # noqa: B018


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a,y", *["1,0", ",1"] * 6], "data row 2 of .*, the first being 1, has no number or text in the column 'a'"),
        (["a,y", *["inf,0", "1,1"] * 6], "holds infinite numbers"),
        (["a,b,y", *["1,x,0", "2,z,1"] * 6], r"columns that hold no numbers \('b'\)"),
        (["a,y", *["1,0", "2,0"] * 6], "all training examples of .* have one label"),
        (["a,y", *[f"{i},{7 * i}" for i in range(40)]], "32 different whole numbers: say with task"),
        (["a,y", *[f"{i},{i}" for i in range(11)]], "is among the rows for testing and not for training"),
    ],
)
def test_values_that_cannot_be_used_are_refused(lines, said, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadRequest, match=said):
        open_data(str(path))


# What functions return


class Pairs(Dataset):
    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.inputs[i], self.labels[i]


INPUTS = torch.arange(48.0).reshape(12, 4).sin()
CLASSES = torch.arange(12) % 3


def tensors():
    return {"train": (INPUTS, CLASSES), "test": (INPUTS[:6], CLASSES[:6])}


def arrays():
    return (INPUTS.double().numpy(), CLASSES.int().numpy()), (INPUTS[:6].double().numpy(), CLASSES[:6].int().numpy())


def sets():
    return TensorDataset(INPUTS, CLASSES), Pairs(INPUTS[:6], [int(label) for label in CLASSES[:6]])


def pictures():
    from PIL import Image

    colours = [np.full((5, 6, 3), i, dtype=np.uint8) for i in range(12)]
    images = [Image.fromarray(colour) for colour in colours]
    return Pairs(images, CLASSES), Pairs(images[:6], CLASSES[:6])


def grey():
    images = torch.arange(12 * 30, dtype=torch.uint8).reshape(12, 5, 6)
    return (images, CLASSES), (images[:6], CLASSES[:6])


def sequences():
    tokens = torch.arange(36).reshape(12, 3) % 9
    return (tokens, CLASSES), (tokens[:6], CLASSES[:6])


def words():
    tokens = torch.arange(36).reshape(12, 3) % 9
    return (tokens, tokens + 1), (tokens[:6], tokens[:6] + 1)


def amounts():
    return (INPUTS, INPUTS[:, :2] * 5 + 3), (INPUTS[:6], INPUTS[:6, :2] * 5 + 3)


def drawn():
    inputs = torch.randn(12, 4)
    return (inputs, CLASSES), (inputs[:6], CLASSES[:6])


def columns():
    import datasets

    table = datasets.Dataset.from_list([{"text": row["text"], "label": row["good"]} for row in rows()])
    return table.train_test_split(0.2, seed=0)


MADE = {
    tensors: ("features", (4,), 3, 0),
    arrays: ("features", (4,), 3, 0),
    sets: ("features", (4,), 3, 0),
    pictures: ("images", (3, 5, 6), 3, 0),
    grey: ("images", (1, 5, 6), 3, 0),
    sequences: ("tokens", (3,), 3, 9),
    words: ("text", (3,), 10, 10),
    amounts: ("features", (4,), 2, 0),
    drawn: ("features", (4,), 3, 0),
    columns: ("tokens", (6,), 2, 9),
}


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_a_function_returns_data(make):
    data = open_data(f"test_tables:{make.__name__}")
    assert (data.kind, data.shape, data.classes, data.vocabulary) == MADE[make]
    [again] = load(json.loads(json.dumps(dump([data]))))
    assert torch.equal(again.split("train").inputs, data.split("train").inputs)


def test_one_content_has_one_key():
    keys = {open_data(f"test_tables:{make.__name__}").key for make in (tensors, arrays, sets)}
    assert len(keys) == 1
    assert open_data("test_tables:drawn").key not in keys


def test_several_targets_are_learned(store):
    from letitgo import compute
    from letitgo.studies.train.study import Train

    recipe = Recipe(data="test_tables:amounts", widths="8", epochs=3, batch_size=4)
    assert recipe.dataset.outputs == 2
    [row] = compute(Train(recipe), store).rows
    assert row["r2"] < 1
    assert Evaluation.under(recipe, Train(recipe).run(recipe).final, "test").result(store)["n"] == 12


def nothing():
    return None


def three():
    return INPUTS, CLASSES, CLASSES


def no_test():
    return {"train": (INPUTS, CLASSES)}


def one_split():
    return INPUTS, CLASSES


def strings():
    return (["a", "b"], CLASSES[:2]), (["a", "b"], CLASSES[:2])


def uneven():
    return (INPUTS, CLASSES[:5]), (INPUTS, CLASSES)


def other_shape():
    return (INPUTS, CLASSES), (INPUTS[:, :3], CLASSES)


def not_finite():
    return (INPUTS.log(), CLASSES), (INPUTS, CLASSES)


def negative():
    tokens = torch.arange(36).reshape(12, 3) - 1
    return (tokens, CLASSES), (tokens, CLASSES)


def unseen():
    return (INPUTS, CLASSES), (INPUTS, CLASSES + 1)


def many_labels():
    return (INPUTS, CLASSES.view(12, 1)), (INPUTS, CLASSES.view(12, 1))


def broken():
    raise KeyError("x")


BROKEN = {
    nothing: "give a NoneType: return {",
    three: "give 3 things: return {",
    no_test: "give a dict of train: return {",
    one_split: "the train data of .* are a Tensor: return {",
    strings: "are no tensors: ",
    uneven: "have 12 inputs and 5 labels",
    other_shape: r"are float32 of shape \(4,\) each for training and float32 of shape \(3,\) each for testing",
    not_finite: "hold numbers that are not finite",
    negative: "tokens of .* go down to -1: number them from 0, which is padding",
    unseen: "split 'test' has labels 1 to 3, 3 classes are numbered 0 to 2",
    many_labels: r"the labels of .* are int64 of shape \(1,\) each: give one class number an example",
    broken: "raise KeyError: 'x'",
}


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_what_a_function_may_not_return(make):
    with pytest.raises(BadRequest, match=BROKEN[make]):
        open_data(f"test_tables:{make.__name__}")


def test_a_function_that_is_not_there_is_refused():
    with pytest.raises(BadRequest, match="the data 'test_tables:none' does not import"):
        open_data("test_tables:none")


@pytest.mark.parametrize("rows", ["", "a,label\n"])
def test_a_table_without_rows_or_file_is_named(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text(rows)
    with pytest.raises(BadRequest, match=r"table.csv' has no rows"):
        open_data("table.csv")
    with pytest.raises(BadRequest, match=r"unknown data 'tabel.csv': there is no such folder or file"):
        open_data("tabel.csv")
