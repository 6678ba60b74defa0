"""``letitgo inspect``: the real program, its answers parsed."""

from __future__ import annotations

import csv
import importlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import letitgo  # noqa: F401

from letitgo.cli.main import run

ROW = ["layer", "type", "parameters", "trainable", "status", "statistics", "ties", "happened"]


def needs(library: str) -> None:
    """Skips where a library is absent, or does not import beside this torch."""
    try:
        importlib.import_module(library)
    except Exception as error:
        pytest.skip(f"{library} does not import: {type(error).__name__}: {error}")


def test_json_tells_what_the_library_tells(letitgo):  # noqa: F811
    import torch

    from letitgo import cost, freeze, select, status
    from letitgo.recipes.networks import fcn

    done = letitgo("inspect", "fcn", "--freeze", "fc*", "--freeze", "!fc3", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    module = fcn((1, 28, 28), 10)
    counted = cost(module, torch.ones(2, 1, 28, 28), select(module, "fc*", "!fc3"))
    assert told["cost"]["share"] == counted.share
    assert told["cost"]["share_at_hand"] == counted.share_at_hand
    assert told["cost"]["frozen"]["backward"] == counted.frozen.backward
    assert told["cost"]["gradient_bytes"] == {"thawed": 335114 * 4, "frozen": 65792 * 4}
    assert told["cost"]["why"] == counted.why
    freeze(module, select(module, "fc*", "!fc3"))
    assert [list(row) for row in told["rows"]] == [ROW] * 4
    assert told["rows"] == status(module).frame.to_dict(orient="records")
    assert (told["parameters"], told["trainable"], told["example"]) == (335114, 65792, "2×1×28×28")


def test_csv_is_rows_and_nothing_else(letitgo):  # noqa: F811
    done = letitgo("inspect", "lenet", "--input", "1x3x32x32", "--format", "csv")
    assert done.returncode == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["layer"] for row in rows] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert int(rows[0]["parameters"]) == 3 * 6 * 25 + 6
    assert "counted on 1×3×32×32: " in done.stderr


def test_a_table_has_layers_totals_and_the_reason(letitgo):  # noqa: F811
    done = letitgo("inspect", "lenet", "--freeze", "conv*")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum(line.startswith("│") for line in lines) == 5
    assert "44,426 parameters in 5 layers, 41,854 of them train (94.2 %)" in lines
    assert lines[-3].startswith(
        "a training step, operations of one example and memory of all, counted on 2×1×28×28: 563 kFLOP forward, "
    )
    assert lines[-2].startswith("with conv* frozen: 563 kFLOP forward, 105 kFLOP backward;")
    assert lines[-1].startswith("Nothing that trains lies before conv1, conv2, so the backward pass never gets there")


def test_a_network_of_ones_own(letitgo, tmp_path):  # noqa: F811
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "print('a network may talk')\n"
        "def words(size=9):\n"
        "    return nn.Sequential(nn.Embedding(size, 8), nn.Flatten(), nn.Linear(24, 3))\n"
    )
    words = letitgo("inspect", "mine:words", "--input", "2x3:int", "--model-args", '{"size": 7}', "--format", "json")
    assert (words.returncode, words.stderr) == (0, "a network may talk\n")
    told = json.loads(words.stdout)
    assert (told["rows"][0]["parameters"], told["cost"]["thawed"]["forward"]) == (7 * 8, 2 * 24 * 3)


def told_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    code = run(["inspect", *arguments, "--format", "json"])
    told = capsys.readouterr()
    assert code == 0, told.err
    return json.loads(told.out)


def test_a_factory_may_take_the_shape_or_not(capsys):
    told = told_of(capsys, "helpers:dropout_net")
    assert (told["example"], told["rows"][0]["parameters"]) == ("2×1×28×28", 16 * 785)
    assert told_of(capsys, "helpers:dropout_net", "--input", "2x20")["rows"][0]["parameters"] == 16 * 21
    assert told_of(capsys, "helpers:NormNet", "--input", "3x20")["rows"][1]["statistics"] == "followed"
    assert told_of(capsys, "helpers:block_net", "--input", "1x64", "--freeze", "block1")["trainable"] == 754


def test_a_network_that_looks_at_numbers_is_built_for_real(capsys, tmp_path, monkeypatch):
    (tmp_path / "looking.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Looks(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) * float(x.sum())\n"
        "def make():\n"
        "    steps = [step.item() for step in torch.linspace(0, 1, 2)]\n"
        "    return Looks(4, len(steps))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    told = told_of(capsys, "looking:make", "--input", "5x4", "--freeze", "bias")
    counts = {"forward": 16, "backward": 16, "prefix": 0, "uncounted": [], "prefix_bytes": 0}
    assert told["cost"]["frozen"] == {**counts, "cut": "", "uncached": ""}
    told = told_of(capsys, "looking:Looks", "--model-args", '{"in_features": 4, "out_features": 2}', "--input", "5x4")
    assert told["cost"]["thawed"]["backward"] == 16


def test_without_an_example_layers_are_told_all_the_same(capsys):
    assert run(["inspect", "helpers:own_law", "--format", "json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["cost"] is None
    assert told.err == (
        "letitgo: no cost without an example: no shape of an input is known; give a shape with --input\n"
    )


def test_transformers_by_type(capsys):
    needs("transformers")
    few = json.dumps({"num_hidden_layers": 8})
    told = told_of(capsys, "transformers:llama", "--freeze", "layers.0", "--input", "1x16", "--model-args", few)
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    assert told["parameters"] == 8 * (layer + 2 * 4096) + 32001 * 4096  # 7 GB in fp32, never held in memory
    assert told["parameters"] - told["trainable"] == layer + 2 * 4096
    attention = 2 * 2 * 16 * 16 * 4096
    assert told["cost"]["thawed"]["forward"] == 8 * (2 * 16 * layer + attention)
    assert told["example"] == "input_ids 1×16"


def test_experts_are_counted_for_the_tokens_they_see(capsys):
    needs("transformers")
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    told = told_of(capsys, "transformers:mixtral", "--model-args", json.dumps(small), "--input", "1x6")
    attention = 2 * 6 * (2 * 32 * 32 + 2 * 32 * 16) + 2 * 2 * 6 * 6 * 32
    assert told["cost"]["thawed"]["forward"] == attention + 2 * 6 * 32 * 4 + 2 * (2 * 6) * (3 * 32 * 64)


def test_transformers_take_pictures_too(capsys):
    needs("transformers")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
    }
    told = told_of(capsys, "transformers:vit", "--model-args", json.dumps(small))
    assert told["example"] == "pixel_values 2×3×32×32"
    assert told["rows"][0]["type"] == "Parameter"


def test_transformers_by_configuration(capsys, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, architectures=["GPT2LMHeadModel"])
    config.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "config.json"):
        told = told_of(capsys, f"transformers:{path}", "--input", "1x4")
        assert told["rows"][0]["ties"] == "lm_head.weight is transformer.wte.weight"
        assert not list(tmp_path.glob("*.safetensors"))


def test_no_code_of_a_configuration_runs_and_nobody_is_asked(capsys, tmp_path, monkeypatch):
    needs("transformers")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    evil = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "evil.M")
    (tmp_path / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom transformers import BertModel as M\n"
    )
    for kind in ("aimv2_text_model", "bert", "unknown"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": evil}))
        run(["inspect", f"transformers:{tmp_path}"])
        assert "nobody foresaw" not in capsys.readouterr().err
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("named", [["pipeline"], ["AutoModel"], ["__name__"], "BertModel", [1], [], {}, None])
def test_a_configuration_names_a_class_of_model_or_is_built_by_its_type(named, capsys, tmp_path):
    needs("transformers")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    about = {"model_type": "bert", "architectures": named, "vocab_size": 20, **small}
    (tmp_path / "config.json").write_text(json.dumps(about))
    code = run(["inspect", f"transformers:{tmp_path}", "--input", "1x4", "--format", "json"])
    captured = capsys.readouterr()
    assert "nobody foresaw" not in captured.err
    assert code == 2 or json.loads(captured.out)["rows"][0]["type"] == "Embedding"


def test_what_meta_tensors_cannot_is_computed(capsys):
    needs("transformers")
    small = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    told = told_of(capsys, "transformers:t5", "--model-args", json.dumps(small))
    assert told["cost"]["thawed"]["forward"] > 0


def test_timm(capsys):
    needs("timm")
    told = told_of(capsys, "timm:resnet18", "--freeze", "layer1")
    assert (told["parameters"], told["example"]) == (11_689_512, "2×3×224×224")
    assert run(["inspect", "timm:resnt18"]) == 2
    assert "timm has no model 'resnt18': did you mean resnet18" in capsys.readouterr().err


def test_torchvision(capsys):
    needs("torchvision")
    told = told_of(capsys, "torchvision:resnet18", "--freeze", "layer1")
    assert (told["parameters"], told["example"]) == (11_689_512, "2×3×224×224")
    assert told["cost"]["thawed"]["forward"] == 2 * 1_814_073_344
    assert run(["inspect", "torchvision:resnt18"]) == 2
    assert "torchvision has no model 'resnt18': did you mean resnet18" in capsys.readouterr().err


WRONG = {
    "unknown name": (("fnc",), "unknown network 'fnc': did you mean fcn?"),
    "unknown prefix": (("tim:resnet18",), "'tim' of 'tim:resnet18' is no package here, and no library that is known"),
    "factory that is not there": (("json:make",), "json has no function or class 'make'"),
    "factory that gives no module": (("helpers:no_module",), "has to return a torch.nn.Module"),
    "factory that raises": (
        ("helpers:unbuildable",),
        "the network 'helpers:unbuildable' raises RuntimeError: out of parts",
    ),
    "pattern": (("fcn", "--freeze", "conv*"), "the pattern 'conv*' matches no layer: choose from fc1, fc2, fc3, fc4"),
    "input that is no shape": (("fcn", "--input", "3x"), "input is '3x': give a shape, as in 1x3x224x224"),
    "input without examples": (("fcn", "--input", "0x5"), "input is '0x5'"),
    "input of no known kind": (("fcn", "--input", "2x5:words"), "or 1x128:int for whole numbers"),
    "input that is too small": (("lenet", "--input", "1x1x8x8"), "lenet takes images of at least 16×16 pixels"),
    "input of another shape": (("helpers:own_law", "--input", "2x9"), "does not take the example: RuntimeError"),
    "one example for a norm": (("helpers:NormNet", "--input", "1x9"), "Expected more than 1 value per channel"),
    "no input known": (("helpers:own_law", "--freeze", "1"), "give a shape, as in --input 1x3x224x224"),
    "arguments that are no JSON": (("fcn", "--model-args", "{x"), "model-args is '{x': give a JSON object"),
    "arguments nobody takes": (("fcn", "--model-args", '{"hight": 3}'), "the network 'fcn' takes no 'hight'"),
    "unknown format": (("fcn", "--format", "xml"), "xml"),
    "no network": ((), "MODEL"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_requests_get_one_sentence_and_exit_code_2(what, capsys, monkeypatch, tmp_path):
    options, sentence = WRONG[what]
    monkeypatch.chdir(tmp_path)
    refused(capsys, sentence, *options)


def refused(capsys: pytest.CaptureFixture[str], sentence: str, *options: str) -> None:
    code = run(["inspect", *options])
    told = capsys.readouterr()
    assert sentence in told.err
    assert (code, told.out) == (2, "")
    assert told.err.startswith("letitgo: ")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_a_library_that_is_not_there(library, capsys, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    refused(capsys, f"{library} is not installed: pip install {library}", f"{library}:resnet")
    monkeypatch.delitem(sys.modules, library)
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text("raise RuntimeError('operator\\nis missing')")
    monkeypatch.syspath_prepend(tmp_path)
    refused(capsys, f"{library} does not import here: RuntimeError: operator is missing", f"{library}:resnet")


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_network_without_weights_is_refused(form, capsys, monkeypatch, tmp_path):
    (tmp_path / "weightless.py").write_text("from torch import nn\ndef make():\n    return nn.Flatten()\n")
    monkeypatch.syspath_prepend(tmp_path)
    refused(capsys, "the network has no weights: there is nothing to train", "weightless:make", "--format", form)


def test_wrong_names_for_transformers(capsys, tmp_path):
    needs("transformers")
    refused(capsys, "transformers has no type of model 'brt'", "transformers:brt")
    refused(capsys, "did you mean bert", "transformers:brt")
    refused(capsys, "no configuration of 'no/such' is found here or on the hub", "transformers:no/such")
    refused(capsys, f"{tmp_path} holds no configuration that transformers reads", f"transformers:{tmp_path}")
    odd = ("transformers:bert", "--model-args", '{"hidden_size": 7}')
    refused(capsys, "the network 'transformers:bert' raises ValueError", *odd)
    refused(capsys, "does not take the example", "transformers:vit", "--input", "1x3x32x32")


def test_debug_shows_the_traceback(capsys):
    assert run(["inspect", "fnc", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_does_not_load_torch():
    script = (
        "from letitgo.cli.main import run; run(['inspect', '--help'])\nimport sys\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--freeze" in done.stdout


@pytest.mark.slow
def test_help_takes_less_than_half_a_second():
    program = Path(sys.executable).with_name("letitgo")
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([program, "inspect", "--help"], capture_output=True, check=True)
        took.append(time.perf_counter() - begin)
    assert sorted(took)[2] < 0.5


def test_the_guide_shows_what_the_program_prints(capsys):
    guide = (Path(__file__).parents[1] / "docs/guides/what-would-freezing-save.md").read_text()
    assert run(["inspect", "lenet", "--freeze", "conv*"]) == 0
    assert f"$ letitgo inspect lenet --freeze 'conv*'\n{capsys.readouterr().out}```" in guide
