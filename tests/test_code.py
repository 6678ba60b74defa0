"""The code that a key covers is the code that runs, with all modules of the user's own that it imports."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy
import pytest
from helpers import small_recipe

from letitgo.code import EditedSince, code_of, opened
from letitgo.errors import BadRequest
from letitgo.imports import import_object
from letitgo.recipes import Recipe
from letitgo.studies.check import check_recipe
from letitgo.studies.compute import compute, estimate
from letitgo.studies.train.study import Train
from letitgo.weights import robustness
from letitgo.weights.state import SameDraws

LIB = """
from functools import partial
from torch import nn
W = 8
def body(num_classes, w=None):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, w or W), nn.ReLU(), nn.Linear(w or W, num_classes))
def made(w):
    def make(num_classes): return body(num_classes, w)
    return make
class Factory:
    def __call__(self, num_classes): return body(num_classes)
def wide(f):
    def inner(num_classes): return f(num_classes)
    return inner
class Base(nn.Sequential):
    def __init__(self, num_classes): super().__init__(nn.Flatten(), nn.Linear(64, W), nn.Linear(W, num_classes))
def Opt(params, lr=0.1):
    import torch
    return torch.optim.SGD(params, lr=lr / W)
def schedule(progress): return 1 / W
"""
NETS = {
    "function": "import lib\ndef make(num_classes): return lib.body(num_classes)\n",
    "constant": "from lib import W\nfrom torch import nn\n"
    "def make(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, W), nn.Linear(W, num_classes))\n",
    "partial": "from functools import partial\nfrom lib import body\nmake = partial(body, w=8)\n",
    "closure": "from lib import made\nmake = made(8)\n",
    "instance": "from lib import Factory\nmake = Factory()\n",
    "decorated": "from lib import wide, body\n@wide\ndef make(n): return body(n, 8)\n",
    "base class": "from lib import Base\nclass make(Base): pass\n",
    "imported when called": "def make(num_classes):\n    from lib import body\n    return body(num_classes)\n",
    "in a package": "from pack import make\n",
}


@pytest.fixture
def write(tmp_path, monkeypatch) -> Callable[[str, str], Path]:
    """Writes modules that the test imports; they are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        return path

    yield written
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def code(path: str = "nets:make") -> dict[str, str]:
    return code_of(path, import_object(path, "network"))


def edit(path: Path, old: str = "W = 8", new: str = "W = 32") -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("kind", NETS)
def test_a_module_that_the_factory_imports_is_in_the_key(kind, write):
    write("nets.py", NETS[kind])
    lib = write("lib.py", LIB)
    write("pack/__init__.py", "from .inner import make\n")
    write("pack/inner.py", "from lib import body as make\n")
    before = code()
    assert {"nets", "lib"} <= before.keys()
    for name in ("nets", "lib", "pack.inner", "pack"):
        sys.modules.pop(name, None)
    edit(lib)
    after = code()
    assert {name for name in after if after[name] != before[name]} == {"lib"}


@pytest.mark.parametrize("kind", NETS)
def test_the_named_module_is_in_the_key(kind, write):
    write("lib.py", LIB)
    write("pack/__init__.py", "from lib import body as make\n")
    write("nets.py", NETS[kind])
    before = code()
    write("nets.py", NETS[kind] + "# another thought\n")
    assert code()["nets"] != before["nets"]


@pytest.mark.parametrize("fields", [{"optimizer": "own:Opt"}, {"schedule": "own:schedule"}, {"model": "own:body"}])
def test_modules_of_each_field_of_a_recipe_are_in_its_key(fields, write):
    write("own.py", "from lib import *\n")
    lib = write("lib.py", LIB)
    before = Recipe(**fields).key
    assert Recipe(**fields).key == before
    for name in ("own", "lib"):
        del sys.modules[name]
    edit(lib)
    assert Recipe(**fields).key != before


def test_editing_after_import_keeps_the_key_of_the_code_that_runs(write):
    write("nets.py", NETS["function"])
    lib = write("lib.py", LIB)
    before = code()
    edit(lib)
    with pytest.warns(EditedSince, match=r"lib\.py was edited after it was imported: this process goes on with the"):
        assert code() == before
    import lib as module  # pyright: ignore[reportMissingImports]

    importlib.reload(module)
    with pytest.raises(BadRequest, match=r"lib\.py was reloaded after a module that imports it: reload that one too"):
        code()
    importlib.reload(sys.modules["nets"])
    assert code()["lib"] != before["lib"]


def test_a_recipe_made_before_its_code_was_reloaded_is_refused(write, store):
    nets = write("nets.py", LIB)
    study = Train((small_recipe(model="nets:body", widths=None, epochs=1),))
    network = study.recipes[0].network
    edit(nets)
    importlib.reload(sys.modules["nets"])
    for asked in (lambda: compute(study, store), lambda: estimate(study, store, 0)):
        with pytest.raises(BadRequest, match=r"of 'nets:body' changed since its recipe was made: make"):
            asked()
    with pytest.raises(BadRequest, match=r"the code of 'nets:body' changed since its recipe was made: make"):
        network()


EDITED = """
import sys, time
sys.path.insert(0, '.')
import nets
time.sleep(0.05)
{edit}
from letitgo.code import code_of
try:
    print(code_of('nets:body', nets.body))
except ValueError as error:
    print(error)
"""


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say when the process began")
def test_a_module_edited_between_its_import_and_that_of_letitgo_is_refused(write):
    write("nets.py", LIB)
    time.sleep(0.05)
    assert python(EDITED.format(edit="")).startswith("{'nets': ")
    said = python(EDITED.format(edit="with open('nets.py', 'a') as file: print('# more', file=file)"))
    assert "so it is unknown which version runs: call importlib.reload on it, or restart" in said


def test_what_is_typed_in_is_refused_with_the_way_out(write):
    said = python("from letitgo.code import code_of\ndef make(): ...\ncode_of('__main__:make', make)")
    assert "BadRequest: __main__:make has no source file" in said
    assert "in a notebook, a cell that begins with %%writefile nets.py" in said


OPTIONAL = """
try:
    import not_there
except ImportError:
    import abc, json, os.path, numpy.linalg, torch, letitgo
def make(): ...
"""


def test_installed_distributions_are_in_the_key_by_version_and_the_standard_library_is_not(write):
    write("nets.py", OPTIONAL)
    found = code()
    assert found.pop("nets")
    assert found == {"numpy": numpy.__version__}
    assert code_of("sgd", object) == code_of("functools:partial", partial) == {}


def test_namespace_packages_and_a_package_of_the_name_of_a_library_module_are_ones_own(write):
    write("space/part.py", "import token as _\n" + LIB)
    write("nets.py", "from space.part import body as make\n")
    assert code().keys() == {"nets", "space.part"}


READS = """
from pathlib import Path
from torch import nn
def make(num_classes):
    w = int(Path("width.txt").read_text())
    Path("log.txt").write_text("")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, w), nn.Linear(w, num_classes))
"""


def test_what_a_factory_opens_is_in_the_key(write):
    write("nets.py", READS)
    width = write("width.txt", "8")
    before = Recipe(model="nets:make")
    assert list(before.network.files) == [str(width)]
    assert Recipe(model="nets:make").key == before.key
    write("width.txt", "9")
    assert Recipe(model="nets:make").key != before.key
    assert "files" not in Recipe().network.description


def test_files_of_the_system_of_modules_and_those_written_are_not_among_the_opened(write):
    read, wrote = write("read.txt", ""), write("wrote.txt", "")
    with opened() as files:
        for path, mode in ((read, "r"), (wrote, "a"), (os.devnull, "r"), (numpy.__file__, "r"), (__file__, "r")):
            open(path, mode).close()
    assert files == [str(read)]


def test_what_a_module_opens_as_it_is_imported_is_not_among_the_opened(write):
    """A worker may import it while it builds the network, the driver before."""
    write("late.py", "from pathlib import Path\nWIDTH = int(Path('import.txt').read_text())\n")
    read, _ = write("read.txt", ""), write("import.txt", "3")
    with opened() as files:
        assert importlib.import_module("late").WIDTH == 3
        read.read_text()
    assert files == [str(read)]


@pytest.mark.parametrize("text", ["import sys\nsys.exit(7)\n", "def make():\n    raise SystemExit(7)\n"])
def test_a_module_or_factory_that_exits_is_refused_by_name(text, write):
    write("nets.py", text)
    with pytest.raises(BadRequest, match=r"the network 'nets:make' .*SystemExit: 7"):
        Recipe(model="nets:make").network()


CONSTANT = """
import torch
from torch import nn
def make(num_classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    return net
"""


def test_a_factory_whose_seeds_all_give_the_same_weights_is_named(write):
    write("nets.py", CONSTANT)
    with pytest.warns(SameDraws, match=r"^the network 'nets:make' gives the same weights for every seed"):
        check_recipe(Recipe(model="nets:make"))
    network = Recipe(model="nets:make").network
    with pytest.warns(SameDraws, match=r"^the factory given as donor gives the same weights for every seed"):
        robustness(network(), lambda _: 0.0, donor=network, progress=False)
