"""Data sets: what is read, and what is refused."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import pictures, python, write_dataset

from letitgo.errors import BadRequest
from letitgo.recipes import Recipe
from letitgo.recipes import data as module
from letitgo.recipes.data import open_data
from letitgo.recipes.splits import Content
from letitgo.recipes.steps import Examples, Fit, Half, HoldOut, Pixels, Shift, Step, fitted
from letitgo.value import dump, load

LABELS = [0, 1, 2, 0, 1, 2]


def forget() -> None:
    """As in a new process."""
    module._decoded.cache_clear()
    module._after.cache_clear()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "set"


def splits(channels: int = 1, test: str = "test") -> dict:
    return {
        "train": (pictures(6, channels=channels), LABELS),
        test: (pictures(3, channels=channels, seed=1), [2, 1, 0]),
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_labels_are_read_as_they_are(channels, folder):
    made = splits(channels)
    data = open_data(str(write_dataset(folder, made)))
    assert data.shape == (channels, 6, 5)
    assert data.classes == 3
    for split, (images, labels) in made.items():
        read = data.split(split)
        expected = torch.tensor(np.stack(images)).reshape(len(images), 6, 5, channels).permute(0, 3, 1, 2)
        assert torch.equal(read.inputs, expected)
        assert read.inputs.dtype == torch.uint8
        assert read.labels.tolist() == labels
        assert len(read) == len(labels)


def test_batches_are_normalised_by_the_training_set(folder):
    data = open_data(str(write_dataset(folder, splits(3))))
    train, test = data.split("train"), data.split("test")
    batch = train.batch(torch.arange(6))
    torch.testing.assert_close(batch.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    back = test.batch(slice(0, 3)) * train.deviation + train.mean
    torch.testing.assert_close(back, test.inputs.float(), atol=1e-3, rtol=0)
    pairs = list(train.batches(4))
    assert [len(labels) for _, labels in pairs] == [4, 2]
    assert torch.equal(torch.cat([inputs for inputs, _ in pairs]), batch)


def test_unit_pixels_go_from_0_to_the_brightest_training_pixel(folder):
    name = str(write_dataset(folder, splits(3)))
    chains = (Pixels(),), (Shift("invert"), Pixels()), ()
    unit, inverted, plain = (open_data(name, *steps) for steps in chains)
    brightest = unit.split("train").inputs.max()
    for split in (unit.split("train"), unit.split("test"), inverted.split("train")):
        assert torch.equal(split.batch(slice(0, 9)), split.inputs / brightest)
    assert torch.equal(plain.split("train").inputs, unit.split("train").inputs)
    assert unit.key != plain.key


def test_a_constant_channel_is_no_division_by_zero(folder):
    black = [np.zeros((6, 5), dtype=np.uint8)] * 6
    data = open_data(str(write_dataset(folder, {"train": (black, LABELS), "test": (black, LABELS)})))
    assert torch.equal(data.split("train").batch(slice(0, 2)), torch.zeros(2, 1, 6, 5))


def test_validation_serves_where_there_is_no_test(folder):
    data = open_data(str(write_dataset(folder, splits(test="validation"))))
    assert data.split("test").labels.tolist() == [2, 1, 0]


def test_test_goes_before_validation(folder):
    made = {**splits(), "validation": (pictures(2, seed=2), [1, 1])}
    assert open_data(str(write_dataset(folder, made))).split("test").labels.tolist() == [2, 1, 0]


def test_columns_may_have_other_names(folder):
    data = open_data(str(write_dataset(folder, splits(), image="img", label="fine_label")))
    assert data.split("train").labels.tolist() == LABELS


def test_plain_integers_serve_as_labels(folder):
    data = open_data(str(write_dataset(folder, splits(), classes=None)))
    assert data.classes == 3
    assert data.split("train").labels.tolist() == LABELS


def test_classes_are_those_the_data_name(folder):
    assert open_data(str(write_dataset(folder, splits(), classes=7))).classes == 7


@pytest.mark.parametrize("found", ["train", "test"])
def test_a_set_without_splits_is_refused(found, folder):
    path = write_dataset(folder, {found: (pictures(6), LABELS)})
    message = f"^the data set '{path}' needs a split 'train' and a split 'test': it has {found}$"
    with pytest.raises(BadRequest, match=message):
        open_data(str(path))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("labels", "said"), [([0, -1, 2], "-1 to 2"), ([0, 1, 3], "0 to 3")])
def test_labels_out_of_range_are_refused(split, labels, said, folder):
    made = {"train": (pictures(3), [0, 1, 2]), "test": (pictures(3), [0, 1, 2])}
    made[split] = (pictures(3), labels)
    path = write_dataset(folder, made)
    message = f"out of range: split '{split}' has labels {said}, 3 classes are numbered 0 to 2$"
    with pytest.raises(BadRequest, match=message):
        open_data(str(path))


def test_test_labels_that_training_never_saw_are_refused(folder):
    made = {"train": (pictures(3), [0, 1, 2]), "test": (pictures(3), [0, 1, 3])}
    with pytest.raises(BadRequest, match="out of range: split 'test' has labels 0 to 3, 3 classes"):
        open_data(str(write_dataset(folder, made, classes=None)))


def test_images_of_several_sizes_are_refused(folder):
    made = splits()
    made["train"][0][4] = np.zeros((7, 5), dtype=np.uint8)
    with pytest.raises(BadRequest, match=r"have to be of one size: row 0 has 5×6 pixels, row 4 has 5×7$"):
        open_data(str(write_dataset(folder, made)))


def test_splits_of_several_sizes_are_refused(folder):
    made = {"train": (pictures(6), LABELS), "test": (pictures(3, size=(7, 7)), [0, 1, 2])}
    with pytest.raises(BadRequest, match=r"have to be of one size and mode in all splits$"):
        open_data(str(write_dataset(folder, made)))


def test_a_set_without_images_is_a_table(folder):
    import datasets

    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
        rows.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    assert open_data(str(folder)).kind == "tokens"


def test_a_set_without_labels_is_refused(folder):
    with pytest.raises(BadRequest, match=r"needs a column of images and one of class labels: it has image, target$"):
        open_data(str(write_dataset(folder, splits(), classes=None, label="target")))


def test_an_empty_folder_is_refused(folder):
    folder.mkdir()
    with pytest.raises(BadRequest, match=r"^the data set '.*set' cannot be read: ") as error:
        open_data(str(folder))
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        BadRequest, match=r"^the data set 'no/such' cannot be read: it is no folder, and the Hugging Face hub gave"
    ) as e:
        open_data("no/such")
    assert "\n" not in str(e.value)
    assert e.value.exit_code == 2
    for path in ("./nonexistent", "/no/such/folder", "~/nonexistent"):
        with pytest.raises(BadRequest, match=rf"^unknown data '{path}': there is no such folder or file$"):
            open_data(path)


def test_other_content_is_another_value(folder):
    path = write_dataset(folder, splits())
    before = open_data(str(path))
    shutil.rmtree(path)
    forget()
    made = splits()
    made["test"][0][0][0, 0] ^= 1
    after = open_data(str(write_dataset(folder, made)))
    assert after.name == before.name
    assert after.digest != before.digest
    assert after.key != before.key


def test_one_changed_label_is_another_value(folder, tmp_path):
    made = splits()
    made["train"] = (made["train"][0], [1, *LABELS[1:]])
    one, other = write_dataset(folder, splits()), write_dataset(tmp_path / "other", made)
    assert open_data(str(one)).digest != open_data(str(other)).digest


def test_decoding_is_done_once(folder, monkeypatch):
    path = write_dataset(folder, splits())
    before = open_data(str(path))
    forget()

    def refuse(name: str) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "_from_hub", refuse)
    assert open_data(str(path)).digest == before.digest


@pytest.mark.parametrize("damage", [b"", b"?" * 64])
def test_a_damaged_cache_is_decoded_again(damage, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LETITGO_CACHE", str(tmp_path / "cache"))
    path = write_dataset(folder, splits())
    before = open_data(str(path))
    [cached] = (tmp_path / "cache" / "data").iterdir()
    forget()
    cached.write_bytes(damage)
    assert open_data(str(path)).digest == before.digest


def test_a_flipped_pixel_in_the_cache_is_noticed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LETITGO_CACHE", str(tmp_path / "cache"))
    path = write_dataset(folder, splits())
    before = open_data(str(path)).split("train").inputs.clone()
    [cached] = (tmp_path / "cache" / "data").iterdir()
    forget()
    held = bytearray(cached.read_bytes())
    held[-1] ^= 1
    cached.unlink()
    cached.write_bytes(held)
    assert torch.equal(open_data(str(path)).split("train").inputs, before)


def test_a_cache_that_cannot_be_written_is_a_bad_request(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LETITGO_CACHE", str(tmp_path / "file"))
    path = write_dataset(folder, splits())
    forget()
    with pytest.raises(BadRequest, match=r"^the decoded data cannot be written to .*: set LETITGO_CACHE to another"):
        open_data(str(path))


def test_a_short_name_is_read_from_the_data_folder(tmp_path, monkeypatch):
    write_dataset(tmp_path / "cifar10", splits())
    monkeypatch.setenv("LETITGO_DATA", str(tmp_path))
    forget()
    try:
        assert open_data("cifar10").split("train").labels.tolist() == LABELS
    finally:
        forget()


def test_a_folder_here_is_read(folder, monkeypatch):
    write_dataset(folder, splits())
    monkeypatch.chdir(folder.parent)
    assert open_data("set") == open_data(str(folder))


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    bundle = load_digits()
    data = open_data("digits")
    train, test = data.split("train"), data.split("test")
    assert data.shape == (1, 8, 8)
    assert data.classes == 10
    assert (len(train), len(test)) == (1438, 359)
    assert np.array_equal(test.inputs[:, 0].numpy(), bundle.images[4::5])
    assert np.array_equal(test.labels.numpy(), bundle.target[4::5])
    assert int(train.inputs.long().sum() + test.inputs.long().sum()) == int(bundle.images.sum())


def test_digits_have_the_same_key_in_another_process():
    script = "from letitgo.recipes.data import open_data; print(open_data('digits').key)"
    assert python(script).stdout.strip() == open_data("digits").key


@pytest.mark.parametrize(
    ("name", "sums", "first"),
    [
        ("mnist", (1567298545, 264923200), [5, 0, 4, 1, 9, 2, 1, 3]),
        ("fashion_mnist", (3431114169, 573469082), [9, 0, 0, 3, 0, 2, 7, 2]),
    ],
)
def test_the_originals_pixels(name, sums, first):
    root = os.environ.get("LETITGO_DATA")
    if not root or not Path(root, name).is_dir():
        pytest.skip(f"LETITGO_DATA names no folder that holds {name}")
    data = open_data(name)
    train, test = data.split("train"), data.split("test")
    assert data.shape == (1, 28, 28)
    assert data.classes == 10
    assert (len(train), len(test)) == (60000, 10000)
    assert (int(train.inputs.sum(dtype=torch.int64)), int(test.inputs.sum(dtype=torch.int64))) == sums
    assert train.labels[:8].tolist() == first


def test_images_are_brought_to_one_shape_without_scaling(folder):
    made = splits(3)
    plain = open_data(str(write_dataset(folder, made)))  # 3×6×5
    fit = open_data(str(folder), Fit("1x4x8"))
    assert (fit.shape, fit.classes, fit.digest) == ((1, 4, 8), 3, plain.digest)
    luma = (plain.split("test").inputs.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1).round()
    test = fit.split("test")
    assert torch.equal(
        test.inputs[:, 0, :, 1:6].double(), luma[:, 1:5]
    )  # a row less on either side, 1 and 2 columns more
    assert not test.inputs[..., [0, 6, 7]].any()
    assert test.labels.tolist() == [2, 1, 0]
    batch = fit.split("train").batch(slice(0, 6))
    torch.testing.assert_close(batch.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.std(correction=0), torch.tensor(1.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("there", "back"), [("3x7x8", "3x4x5"), ("1x28x28", "1x32x32"), ("1x5x5", "1x8x8")])
def test_padding_is_undone_by_cropping(there, back):
    small, large = sorted([int(side) for side in text.split("x")] for text in (there, back))
    images = torch.randint(1, 256, (2, *small), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padded = fitted(images, tuple(large))
    assert padded.shape == (2, *large)
    assert padded.count_nonzero() == images.numel()
    assert torch.equal(fitted(padded, tuple(small)), images)
    assert torch.equal(fitted(fitted(images, (3, *small[1:])), tuple(small)), images)  # grey stays grey


def test_a_shape_is_in_the_key_only_where_it_is_another():
    digits = open_data("digits")
    assert open_data("digits", Fit("1x8x8")) == digits
    assert "fit" not in digits.identity()
    others = [open_data("digits", Fit(fit)) for fit in ("1x10x10", "3x8x8")]
    assert len({digits, *others}) == 3
    assert open_data("digits", Fit("1x10x10"), Shift("invert"), Half("a")).shape == (1, 10, 10)


def test_steps_are_taken_in_the_order_they_are_given():
    one, other = open_data("digits", HoldOut(50), Examples(100)), open_data("digits", Examples(100), HoldOut(50))
    assert (len(one.split("train")), len(one.split("validation"))) == (100, 50)
    assert (len(other.split("train")), len(other.split("validation"))) == (50, 50)
    assert one.key != other.key
    with pytest.raises(BadRequest, match="validation is 100: 'digits' has 100 for training, and some have to be left"):
        open_data("digits", Examples(100), HoldOut(100))
    twice = open_data("digits", Half("a"), Half("a"))
    assert len(twice.split("train")) == 360
    assert twice.key != open_data("digits", Half("a")).key


@dataclass(frozen=True, eq=False)
class Darker(Step):
    """A step that is none of ours."""

    by: int

    def apply(self, content: Content) -> Content:
        train = content.train
        return content.having(train=replace(train, inputs=train.inputs.clamp(min=self.by) - self.by))


def test_a_step_of_ones_own_is_in_the_key_and_leaves_the_data_alone():
    plain = open_data("digits")
    before = plain.split("train").inputs.clone()
    darker = open_data("digits", Darker(3))
    assert torch.equal(darker.split("train").inputs.int(), (before.int() - 3).clamp(min=0))
    assert torch.equal(plain.split("train").inputs, before)
    assert len({plain.key, darker.key, open_data("digits", Darker(4)).key}) == 3
    assert load(dump([darker])) == [darker]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "secret"))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BadRequest, match=r"cannot be read \(Permission denied: .*secret"):
        open_data(str(tmp_path))


def image_folder(folder: Path, seed: int = 0) -> Path:
    from PIL import Image

    for split in ("train", "test"):
        for i, picture in enumerate(pictures(6, seed=seed + (split == "test"))):
            path = folder / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return folder


def test_data_are_what_a_name_means_now(tmp_path, monkeypatch):
    for place, seed in (("A", 0), ("B", 10), ("shared", 20)):
        image_folder(tmp_path / place / "pics", seed)
    found = {}
    for place in ("A", "B", "A", "B"):
        monkeypatch.chdir(tmp_path / place)
        assert found.setdefault(place, open_data("pics").key) == open_data("pics").key
    monkeypatch.setenv("LETITGO_DATA", str(tmp_path / "shared"))
    found["shared"] = open_data("pics").key
    monkeypatch.delenv("LETITGO_DATA")
    found["edited"] = open_data(str(image_folder(tmp_path / "A" / "pics", 30))).key
    (tmp_path / "link").symlink_to(tmp_path / "A", target_is_directory=True)
    assert open_data(str(tmp_path / "link" / "pics")).key == found["edited"]
    assert len(set(found.values())) == 4


def test_a_file_behind_a_link_counts_and_a_circle_of_links_ends(tmp_path):
    image_folder(tmp_path / "real")
    (tmp_path / "pics").mkdir()
    for split in ("train", "test"):
        (tmp_path / "pics" / split).symlink_to(tmp_path / "real" / split, target_is_directory=True)
    (tmp_path / "real" / "train" / "again").symlink_to(tmp_path / "pics", target_is_directory=True)
    (tmp_path / "real" / "train" / "nowhere").symlink_to(tmp_path / "none")
    before = module._signature(str(tmp_path / "pics"))
    assert len(before[1]) == 12
    image_folder(tmp_path / "real", 10)
    assert module._signature(str(tmp_path / "pics")) != before


def test_data_that_change_after_they_were_opened_are_refused(tmp_path):
    data = open_data(str(image_folder(tmp_path / "pics")))
    assert len(data.split("train")) == 6
    image_folder(tmp_path / "pics", 10)
    assert torch.equal(data.split("train").inputs[:, 0], torch.tensor(np.stack(pictures(6))[[0, 2, 4, 1, 3, 5]]))
    forget()
    with pytest.raises(BadRequest, match="have changed since they were opened"):
        data.split("train")


def test_data_that_change_while_they_are_read_are_refused(tmp_path, monkeypatch):
    read = module._from_hub

    def changing(name: str, reading: dict[str, str]) -> object:
        found = read(name, reading)
        image_folder(tmp_path / "pics", 10)
        return found

    image_folder(tmp_path / "pics")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_from_hub", changing)
        with pytest.raises(BadRequest, match="changed while it was read"):
            open_data(str(tmp_path / "pics"))
    assert torch.equal(
        open_data(str(tmp_path / "pics")).split("test").inputs[0, 0], torch.tensor(pictures(6, seed=11)[0])
    )


@pytest.mark.parametrize("where", ["../secret.png", "{}/secret.png", "/dev/stdin", "", "nowhere.png"])
def test_a_table_names_no_image_outside_the_data(where, tmp_path, folder):
    import pyarrow.parquet
    from PIL import Image

    write_dataset(folder, splits())
    Image.fromarray(pictures(1)[0]).save(tmp_path / "secret.png")
    path = next(folder.glob("data/train*"))
    table = pyarrow.parquet.read_table(path)
    cells = table["image"].to_pylist()
    cells[2] = {"bytes": None, "path": where.format(tmp_path)}
    images = pyarrow.array(cells, table["image"].type)
    pyarrow.parquet.write_table(table.set_column(0, table.schema.field("image"), images), path)
    with pytest.raises(BadRequest, match=r"row 2 of .* names no image of the data|cannot be read"):
        open_data(str(folder))


ARRAYS = {
    "16 bits": (np.full((6, 5), 40_000, np.uint16), "more than 8 bits"),
    "floats": (np.ones((6, 5), np.float32), "more than 8 bits"),
    "alpha": (np.zeros((6, 5, 4), np.uint8), "transparent"),
    "grey with alpha": (np.zeros((6, 5, 2), np.uint8), "transparent"),
    "colour among grey": (np.zeros((6, 5, 3), np.uint8), "in colour and row 0 is grey"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_image_that_would_not_be_read_as_it_is_seen_is_refused_by_row(kind, tmp_path):
    from PIL import Image

    array, said = ARRAYS[kind]
    Image.fromarray(array).save(image_folder(tmp_path / "set") / "train/b/5.png", "TIFF")
    with pytest.raises(BadRequest, match=f"^row 5 of .*{said}"):
        open_data(str(tmp_path / "set"))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None])
def test_a_broken_image_is_refused_by_row(content, tmp_path):
    path = image_folder(tmp_path / "set") / "train/a/4.png"
    path.write_bytes(path.read_bytes()[:50] if content is None else content)
    with pytest.raises(BadRequest, match=r"^row 2 of .* is no whole image"):
        open_data(str(tmp_path / "set"))


def test_opaque_and_turned_images_are_read_as_they_are_seen(tmp_path):
    from PIL import Image

    for path in image_folder(tmp_path / "set").glob("*/*/*.png"):
        pixels = np.full((2, 3, 4), 255, np.uint8)
        pixels[0, 0] = 0, 0, 0, 255
        turned = Image.Exif()
        turned[0x0112] = 6  # its top is at the right
        Image.fromarray(pixels).save(path, exif=turned)
    seen = open_data(str(tmp_path / "set")).split("train").inputs
    assert seen.shape[1:] == (3, 3, 2)
    assert (seen == 0).nonzero()[:, 2:].unique(dim=0).tolist() == [[0, 1]]


def test_a_row_without_a_label_and_labels_with_gaps_are_refused(folder):
    made = {"train": (pictures(3), [0, 3, 1]), "test": (pictures(3), [0, 1, 3])}
    with pytest.raises(BadRequest, match=r"no training row of .* has the label 2, but labels go up to 3"):
        open_data(str(write_dataset(folder, made, classes=None)))
    made["train"] = (pictures(3), [0, None, 1])
    with pytest.raises(BadRequest, match=r"^row 1 of .* has no label"):
        open_data(str(write_dataset(folder / "unlabelled", made, classes=None)))


def test_fewer_test_examples_are_the_same_for_every_seed_and_leave_training_alone():
    whole, some = Recipe().dataset, Recipe(test_examples=50).dataset
    test, few = whole.split("test"), some.split("test")
    assert len(few) == 50
    places = [i for i, image in enumerate(test.inputs) if any(torch.equal(image, one) for one in few.inputs)]
    assert torch.equal(test.inputs[places], few.inputs)
    assert torch.equal(test.labels[places], few.labels)
    assert places != list(range(50))
    assert torch.equal(whole.split("train").inputs, some.split("train").inputs)
    assert torch.equal(few.inputs, Recipe(test_examples=50, seed=1).dataset.split("test").inputs)
    with pytest.raises(BadRequest, match="test-examples is 1,000: there are 359 for testing"):
        Recipe(test_examples=1000).dataset.split("test")
