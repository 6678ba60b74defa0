"""Networks by import path, small data sets and comparisons that several tests share."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from letitgo.plan import Initial, Run
from letitgo.recipes import Recipe
from letitgo.weights import parameter_names, seeded


def dropout_net(input_shape: tuple[int, ...], num_classes: int, p: float = 0.3) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(int(np.prod(input_shape)), 16),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(16, num_classes),
    )


class NormNet(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(int(np.prod(input_shape)), 16)
        self.norm1 = nn.BatchNorm1d(16)
        self.fc2 = nn.Linear(16, 16)
        self.norm2 = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.fc1(inputs.flatten(1))))
        return self.head(torch.relu(self.norm2(self.fc2(hidden))))


class Widened(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.tanh(self.linear(inputs))


def own_blocks(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    width = int(np.prod(input_shape))
    return nn.Sequential(nn.Flatten(), *(Widened(width) for _ in range(3)), nn.Linear(width, num_classes))


def backboned(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return nn.Sequential(NormNet(input_shape, 12), nn.ReLU(), nn.Linear(12, num_classes))


class Spare(nn.Module):
    """A layer that no input passes."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(int(np.prod(input_shape)), num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs.flatten(1))


class Scaled(nn.Module):
    """A layer that scales the outputs, whose freezing saves no matrix product."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(int(np.prod(input_shape)), num_classes)
        self.scale = nn.LayerNorm(num_classes, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale(self.head(inputs.flatten(1)))


def block_net() -> nn.Module:
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    parts = {"flatten": nn.Flatten(), "stem": nn.Linear(64, 8), "block1": block(), "block2": block()}
    return nn.Sequential(OrderedDict(**parts, head=nn.Linear(8, 10)))


def own_law(low: float = 2.0, high: float = 3.0) -> nn.Module:
    """A network with an initialization of its own making."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))

    def draw(part: nn.Module) -> None:
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.weight, low, high)
            nn.init.constant_(part.bias, 7.0)

    return module.apply(draw)


def mortal(spare: int, marker: str = "") -> nn.Module:
    """A network whose building kills the process, other than ``spare``: once if there is a marker file to leave."""
    if os.getpid() != spare and not (marker and Path(marker).exists()):
        if marker:
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def mortal_parent(spare: int, marker: str) -> nn.Module:
    """A network whose building starts a process and kills its own, other than ``spare``; notes both."""
    if os.getpid() != spare:
        if (child := os.fork()) == 0:
            time.sleep(100)
            os._exit(0)
        with Path(marker).open("a") as file:
            file.write(f"{child}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Leaves(nn.Module):
    """A network that ends the program at a call of ``forward``."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.body, self.left = nn.Linear(64, 10), after

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.left == 0:
            sys.exit(5)
        self.left -= 1
        return self.body(inputs.flatten(1))


def leaves(after: int) -> nn.Module:
    return Leaves(after)


def unbuildable() -> nn.Module:
    raise RuntimeError("out of parts")


def no_module() -> dict[str, int]:
    return {"layers": 3}


def three_outputs() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def no_parameters() -> nn.Module:
    return nn.Sequential(nn.Flatten())


def wants_more(input_shape: tuple[int, ...], flavour: str) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), len(flavour)))


def half_then_less(progress: float) -> float:
    return 0.5 - progress / 4


class Grouped(torch.optim.Adam):
    """Matrices decay and move with momentum, all else moves more slowly; biases come first, each in its own group."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        params = list(params)
        groups: list[dict[str, Any]] = [
            {"params": [p], "lr": lr / (2 + i), "betas": (0.5, 0.9)}
            for i, p in enumerate(p for p in params if p.ndim < 2)
        ]
        matrices = [p for p in params if p.ndim > 1]
        super().__init__([*groups, *([{"params": matrices, "weight_decay": 0.1}] if matrices else [])], lr=lr)


def wordy_schedule(progress: float) -> str:
    return "slowly"


def command(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a folder, with a store there, in this process: a process of its own imports for seconds."""
    from letitgo.cli import main

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["letitgo", *arguments])
        patch.setattr(sys, "path", [*sys.path])
        for name, value in {"LETITGO_STORE": str(folder / "store"), **variables}.items():
            patch.setenv(name, value)
        known = set(sys.modules)
        code = main.run([*arguments])
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(folder):
                del sys.modules[name]
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def complaints(err: str) -> str:
    """What a command wrote to stderr, without the lines of finished runs that a slow machine gives time to write."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("letitgo: done: "))


def small_recipe(**fields: Any) -> Recipe:
    """A recipe on the digits, 23 steps an epoch, that trains in a fraction of a second."""
    return Recipe(**{"widths": "16", "schedule": "constant", "batch_size": 64, "epochs": 2, **fields})


def baseline(recipe: Recipe) -> Run:
    return Run(Initial(recipe.network, recipe.seed), parameter_names(seeded(recipe.network, 0)), recipe)


def freezing(run: Run, layer: str, **fields: Any) -> Run:
    """The run with a layer left alone."""
    frozen = run.recipe.network.layers[layer]
    trains = tuple(name for name in run.trains if name not in frozen)
    return Run(**{**run.fields(), "trains": trains, **fields})


def bits(state: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.detach().contiguous().numpy().tobytes() for name, tensor in state.items()}


def python(script: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script, *args], check=True, text=True, capture_output=True, timeout=120, **options
    )


def pictures(n: int, size: tuple[int, int] = (6, 5), channels: int = 1, seed: int = 0) -> list[np.ndarray]:
    """Random images as arrays, height × width (× 3)."""
    shape = (*size, channels) if channels > 1 else size
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(n)]


def write_dataset(
    folder: Path,
    splits: Mapping[str, tuple[list[np.ndarray], list[int]]],
    classes: int | None = 3,
    image: str = "image",
    label: str = "label",
) -> Path:
    """A folder laid out as on the hub: one Parquet file per split. Without classes the labels are plain integers."""
    import datasets
    import pyarrow.parquet
    from PIL import Image

    plain = {image: datasets.Image(), label: datasets.Value("int64")}
    named = plain if classes is None else {**plain, label: datasets.ClassLabel(num_classes=classes)}
    about = datasets.Features(named).arrow_schema.metadata
    (folder / "data").mkdir(parents=True)
    for split, (images, labels) in splits.items():
        columns = {image: [Image.fromarray(picture) for picture in images], label: labels}
        rows = datasets.Dataset.from_dict(columns, features=datasets.Features(plain))
        table = rows.data.table.replace_schema_metadata(about)  # labels are not held against the classes
        pyarrow.parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def sequences() -> dict[str, tuple[Tensor, Tensor]]:
    """Tokens from 1 to 29 with padding after them, in two classes: which of two tokens begins them."""
    found = {}
    for split, count in (("train", 240), ("test", 60)):
        tokens, labels = torch.randint(3, 30, (count, 7)), torch.randint(2, (count,))
        tokens[:, 0] = labels + 1
        tokens[torch.arange(7) > torch.randint(2, 7, (count, 1))] = 0
        found[split] = tokens, labels
    return found


def two_processes(source: str, folder: Path, *arguments: object) -> list[Any]:
    """What a script, run by two processes at once, writes as JSON: each as ``RANK.json`` in a folder.

    The script gets its rank, the folder and the further arguments, and imports from the tests and the project.
    """
    script = folder / "script.py"
    script.write_text(source)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    options: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": path}, "cwd": folder, **streams}
    commands = [[sys.executable, "-W", "ignore", script, rank, folder, *arguments] for rank in range(2)]
    processes = [subprocess.Popen(list(map(str, command)), **options) for command in commands]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
