"""The real program, its answers parsed: what a person and a script see."""

import csv
import dataclasses
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from helpers import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_faults import STUDIES as KILLED

from letitgo import __version__
from letitgo.cli.config import command_line
from letitgo.cli.main import app, run
from letitgo.cli.options import json_object
from letitgo.errors import BadRequest
from letitgo.recipes import Recipe
from letitgo.studies import STUDIES

COLUMNS = {
    "layer",
    "intervention",
    "epoch",
    "parameters",
    "accuracy_mean",
    "accuracy_ci95",
    "train_accuracy_mean",
    "gap_mean",
    "drop_mean",
    "drop_ci95",
    "distance_l2_mean",
    "distance_linf_mean",
    "n",
    "verdict",
    "saved",
}
SMALL = ("--epochs", "2", "--depth", "2", "--workers", "0")
QUICK = (*SMALL, "--widths", "16", "--seeds", "2")
LEARNED = (*SMALL, "--widths", "32", "--optimizer", "adam", "--lr", "0.02")
"""Of two seeds 87 ± 7 %: a map of it has verdicts."""


@pytest.fixture
def letitgo(tmp_path):
    return partial(command, tmp_path)


@dataclass
class Twice:
    """A map that ran twice in a folder: with JSON and the report ``a``, then with CSV and the report ``b``.

    Attributes:
        folder: Where.
        first: What the first run wrote.
        second: What the second run wrote.
        times: When each record of the store was written, after the first run and after the second.
    """

    folder: Path
    first: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]
    times: tuple[dict[Path, int], dict[Path, int]]


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twice")

    def times():
        return {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*.json")}

    study = ("map", *LEARNED, "--seeds", "2", "--together")
    program = [sys.executable, "-c", "from letitgo.cli.main import main; main()"]
    environment = {**os.environ, "LETITGO_STORE": str(folder / "store")}
    first = subprocess.run(
        [*program, *study, "--report", "a", "--format", "json"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    before = times()
    second = command(folder, *study, "--report", "b", "--format", "csv")
    return Twice(folder, first, second, (before, times()))


def test_map_writes_nothing_but_json_to_stdout(twice):
    done = twice.first
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) >= COLUMNS for row in rows)
    assert {row["intervention"] for row in rows} == {"baseline", "frozen", "reinitialised", "rerandomised"}
    single = {row["layer"] for row in rows if " " not in row["layer"]}  # names of sets have spaces
    assert single == {"all", "fc1", "fc2", "fc3"}
    assert all(0 <= row["accuracy_mean"] <= 1 and row["n"] == 2 for row in rows)
    base = rows[0]["accuracy_mean"]
    for row in rows:
        assert row["drop_mean"] == pytest.approx(base - row["accuracy_mean"])
        if row["intervention"] in ("baseline", "frozen"):  # grafts are measured on the test split alone
            assert row["gap_mean"] == pytest.approx(row["train_accuracy_mean"] - row["accuracy_mean"])
    assert done.stderr == "report: a/map.html\n"  # quiet when not a terminal


def test_csv_says_what_json_says(twice):
    from_json = json.loads(twice.first.stdout)["rows"]
    from_csv = list(csv.DictReader(io.StringIO(twice.second.stdout)))
    assert [row["layer"] for row in from_csv] == [row["layer"] for row in from_json]
    assert [float(row["drop_mean"]) for row in from_csv] == [row["drop_mean"] for row in from_json]


def test_second_time_computes_nothing(twice):
    before, after = twice.times
    assert twice.second.returncode == 0
    assert before == after
    told = command(twice.folder, "map", *LEARNED, "--seeds", "2", "--together", "--dry-run", "--format", "json")
    plan = json.loads(told.stdout)["dry_run"]
    assert plan["runs"] == plan["runs_stored"] > 0
    assert plan["operations"] == 0


def test_the_same_rows_give_the_same_figures(twice):
    figures = list((twice.folder / "a").glob("*.svg"))
    assert figures
    for file in figures:
        assert file.read_bytes() == (twice.folder / "b" / file.name).read_bytes()


def test_dry_run_starts_nothing(letitgo, tmp_path):
    done = letitgo("map", *QUICK, "--dry-run", "--format", "json", "--freeze-at", "0,1", "--together")
    plan = json.loads(done.stdout)["dry_run"]
    assert plan["at_least"]
    layers, sets, seeds = 3, 3 + 1 + 1, 2
    # All but one, the prefix and the suffix: three layers leave two sets that occur twice.
    assert plan["runs"] == seeds * (1 + 2 * (layers + sets - 2))
    assert plan["runs_stored"] == plan["measures_stored"] == 0
    assert plan["operations"] > 0
    assert plan["seconds"] > 0
    assert not list((tmp_path / "store").rglob("*.json"))


def test_train_shares_the_baseline_with_map(twice):
    options = [*LEARNED]
    options += ["--validation", str(len(Recipe().dataset.split("train")) // 5)]  # which the map holds out to choose on
    told = command(twice.folder, "train", *options, "--dry-run", "--format", "json")
    plan = json.loads(told.stdout)["dry_run"]
    assert (plan["runs"], plan["runs_stored"]) == (1, 1)
    frozen = ("--freeze", "fc*", "--freeze", "!fc3")
    done = command(twice.folder, "train", *options, *frozen, "--save", "out.safetensors", "--format", "json")
    row = json.loads(done.stdout)["rows"][0]
    assert row["trained"] == 32 * 10 + 10


def test_train_saves_weights_with_the_frozen_ones_at_their_initial_values(letitgo, tmp_path):
    from safetensors.torch import load_file

    from letitgo import Recipe, initial_state

    done = letitgo("train", "--epochs", "1", "--workers", "0", "--freeze", "fc1", "--save", "out.safetensors")
    assert done.returncode == 0, done.stderr
    trained = load_file(tmp_path / "out.safetensors")
    start = initial_state(Recipe().network, 0)
    assert trained["fc1.weight"].equal(start["fc1.weight"])
    assert not trained["fc2.weight"].equal(start["fc2.weight"])


def test_a_sweep_adds_its_field_as_a_column(letitgo):
    done = letitgo("map", *SMALL, "--widths", "8,16", "--seeds", "1", "--format", "json", "--report", "none")
    rows = json.loads(done.stdout)["rows"]
    assert {row["widths"] for row in rows} == {"8", "16"}
    assert all(row["drop_ci95"] is None and row["verdict"] in (None, "undecided") for row in rows)


def test_a_network_of_ones_own_from_the_working_directory(letitgo, tmp_path):
    network = (
        "from torch import nn\n"
        "print('a network may talk')\n"
        "def make(num_classes):\n"
        "    first = nn.Linear(64, 8)\n"
        "    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_classes))\n"
    )
    (tmp_path / "mine.py").write_text(network)
    options = (
        "--model",
        "mine:make",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--report",
        "none",
        "--statistics",
        "re-estimate",
        "--workers",
        "1",
    )
    done = letitgo("map", *options, "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["layer"] for row in rows} == {"all", "1", "4"}  # a layer and its norm are one


def test_report_is_whole_and_asks_nobody(twice):
    page = (twice.folder / "a" / "map.html").read_text()
    assert page.count("<svg") == 6
    for outside in ('src="http', "url(http", "<script", "<link"):
        assert outside not in page
    for word in ("fc1", "letitgo map", "torch", "seeds", "digest of the data"):
        assert word in page
    for figure in ("heatmap", "heatmap-sets", "cost", "cost-sets", "generalization", "distances"):
        assert (twice.folder / "a" / f"map-{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert (twice.folder / "a" / f"map-{figure}.svg").read_text().startswith("<?xml")


WRONG = {
    "unknown network": (("--model", "fnc"), "unknown network 'fnc': did you mean fcn?"),
    "unknown data": (("--data", "nosuch/data"), "the data set 'nosuch/data' cannot be read"),
    "unknown optimiser": (("--optimizer", "sdg"), "unknown optimiser 'sdg': did you mean"),
    "unknown schedule": (("--schedule", "cosin"), "unknown schedule 'cosin': did you mean cosine?"),
    "argument the optimiser lacks": (("--optimizer", "adam", "--momentum", "0.5"), "'adam' takes no 'momentum'"),
    "pattern": (("--layers", "conv*"), "the pattern 'conv*' matches no layer: choose from fc1, fc2, fc3, fc4"),
    "block pattern": (("--blocks", "layer1"), "the pattern 'layer1' matches no block"),
    "factory that does not import": (("--model", "no_such:make"), "no_such raises ModuleNotFoundError"),
    "factory that is not there": (("--model", "json:make"), "json has no function or class 'make'"),
    "factory that gives no module": (("--model", "fractions:Fraction"), "has to return a torch.nn.Module"),
    "network for other data": (("--model", "lenet"), "lenet takes images of at least 16×16 pixels; the data has 8×8"),
    "no epochs": (("--epochs", "0"), "epochs is '0'"),
    "negative rate": (("--lr", "-0.1"), "lr is '-0.1'"),
    "rate that is no number": (("--lr", "nan"), "lr is 'nan'"),
    "words for numbers": (("--epochs", "ten"), "epochs is 'ten'"),
    "list with a hole": (("--lr", "0.1,,0.2"), "lr is '0.1,,0.2': a value is missing"),
    "list with a value twice": (("--lr", "0.1,0.1"), "lr has a value twice"),
    "widths as a list": (("--widths", "32,32"), "widths has a value twice: 32, 32; one network has 32x32"),
    "widths": (("--widths", "0"), "widths is '0': write 256, or 300x100"),
    "arguments that are no JSON": (("--model-args", "{width"), "model-args is '{width': give a JSON object"),
    "arguments nobody takes": (("--model-args", '{"hight": 3}'), "the network 'fcn' takes no 'hight'"),
    "epoch after the end": (("--epochs", "3", "--freeze-at", "0,3"), "freeze-at names epoch 3: training has 3 epochs"),
    "epochs in words": (("--freeze-at", "first"), "freeze-at is 'first': give a whole number"),
    "part of a seed": (("--seeds", "1.5"), "seeds is '1.5': give a whole number"),
    "part of a worker": (("--workers", "0.4"), "Invalid value for --workers: '0.4' is no whole number"),
    "misspelt data": (("--data", "mnits"), "unknown data 'mnits': did you mean mnist"),
    "folder without data": (("--data", "."), "which column of"),
    "two lengths": (("--epochs", "3", "--iterations", "40"), "epochs and iterations both say how long training is"),
    "warm-up without a unit": (("--warmup", "5"), "warmup is '5': write steps as in 500it, or epochs as in 5ep"),
    "warm-up that never ends": (
        ("--warmup", "4ep", "--epochs", "3", "--select", "test"),
        "warmup is 4ep, 48 steps: training has 36",
    ),
    "milestones without a unit": (("--schedule", "0.1@80"), "schedule is '0.1@80': write milestones as in 0.1@80ep"),
    "text that is augmented": (("--data", "python-manual", "--augment", "flip"), "augment is for images"),
    "schedule that raises": (("--schedule", "os:getcwd"), "the schedule 'os:getcwd' raises TypeError"),
    "store without a name": (("--store", ""), "store is empty"),
    "no seeds": (("--seeds", "0"), "seeds is 0"),
    "too many seeds": (("--seeds", "100000"), "seeds is 100000: give a whole number from 1 to 10,000, or auto"),
    "too many seeds at most": (("--max-seeds", "100000"), "max-seeds is 100000: give at most 10,000"),
    "too many epochs": (("--epochs", "99999999999999999999"), "give at most 1,000,000,000"),
    "too many iterations": (("--iterations", "99999999999999999999"), "give at most 1,000,000,000"),
    "too wide": (("--widths", "1000000000000"), "the network 'fcn' does not fit into memory"),
    "tolerance": (("--tolerance", "-1"), "tolerance is"),
    "workers": (("--workers", "-1"), "workers is -1"),
    "most of a fixed number": (("--seeds", "3", "--max-seeds", "9"), "max-seeds is for seeds auto, and seeds is 3"),
    "familywise with a fixed number": (("--seeds", "3", "--familywise"), "familywise is for seeds auto"),
    "sets that freeze nothing": (("--freeze-at", "none", "--together"), "together freezes sets of layers"),
    "unknown option": (("--epoch", "3"), "Unknown option: --epoch"),
    "whose options": (("--epoch", "3"), "letitgo map --help lists its options"),
    "unknown format": (("--format", "xml"), "xml"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_requests_get_one_sentence_and_exit_code_2(what, capsys, monkeypatch, tmp_path):
    options, sentence = WRONG[what]
    monkeypatch.chdir(tmp_path)
    code = run(["map", *options, "--report", "none"])
    told = capsys.readouterr()
    assert sentence in told.err
    assert code == 2
    assert told.out == ""
    assert told.err.startswith("letitgo: ")
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err


@pytest.mark.parametrize("target", ["", "no/such/folder/x", "."])
def test_a_target_that_cannot_be_written_is_refused_before_the_work(target, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--save", target]) == 2
    assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run(["map", "--report", "file/x"]) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert not list((tmp_path).rglob("*.safetensors"))


def test_an_epoch_to_freeze_from_needs_something_to_freeze(capsys):
    assert run(["train", "--freeze-at", "3"]) == 2
    assert "nothing is frozen: name it with freeze" in capsys.readouterr().err


INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from letitgo.cli.main import main; main()"
)
"""The command, also where the tests themselves run in a shell's background and ignore interrupts."""


@pytest.mark.parametrize("moment", [0.0, 2.0])
def test_an_interrupt_is_told_in_one_sentence(tmp_path, moment):
    program = [sys.executable, "-c", INTERRUPTIBLE, "map", "--epochs", "500"]
    process = subprocess.Popen(
        [*program, "--report", "none"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "store").exists():
        assert process.poll() is None, "the command ended before it wrote anything"
        time.sleep(0.05)  # however busy the machine is
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=30)[1]
    assert told.startswith("letitgo: interrupted; finished results are in the store")
    assert told.count("\n") == 1
    assert process.returncode == 130


def test_an_interrupt_that_a_network_swallows_is_not_lost(tmp_path):
    (tmp_path / "deaf.py").write_text(
        "import os, signal, time\nfrom torch import nn\n"
        "def make():\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(0.1)\n"
        "    except KeyboardInterrupt:\n        pass\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    options = ["train", "--model", "deaf:make", "--epochs", "100000", "--workers", "1"]
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTIBLE, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 130
    assert process.stderr.startswith("letitgo: interrupted")


def test_an_interrupt_that_is_ignored_stays_so(tmp_path):
    script = "from letitgo.cli.main import main; main()"
    program = [sys.executable, "-c", script, "train", "--epochs", "1", "--workers", "0", "--format", "csv"]
    ignored = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", ignored, *program], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    time.sleep(1)  # it has taken the place of the script that ignores the signal
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert process.returncode == 0
    assert "accuracy" in process.communicate()[0]


def test_debug_shows_the_traceback(letitgo):
    done = letitgo("map", "--model", "fnc", "--debug")
    assert "Traceback" in done.stderr
    assert done.returncode == 2


def test_a_store_that_cannot_be_written(letitgo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = letitgo("map", "--store", "file/store")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_finite_fails_the_work_and_keeps_the_rest(letitgo):
    done = letitgo("map", *QUICK, "--lr", "0.01,1e30", "--format", "json", "--report", "none", "--together")
    assert done.returncode == 1
    assert "the loss is not finite by step" in done.stderr
    assert "Traceback" not in done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["n"] for row in rows if row["lr"] == 0.01} == {2}
    assert {row["n"] for row in rows if row["lr"] == 1e30} == {0}


@pytest.mark.parametrize("after", [0, 3, 30])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_network_that_ends_the_program_fails_in_a_sentence(letitgo, after, workers):
    network = ("--model", "helpers:leaves", "--model-args", json.dumps({"after": after}))
    done = letitgo("map", *network, "--epochs", "8", "--seeds", "1", "--workers", workers, "--report", "none")
    assert done.returncode in (1, 2)
    assert "exit" in done.stderr.lower()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", ["import letitgo", "from letitgo.cli.main import run; run(['map', '--help'])"])
def test_help_and_import_do_not_load_torch(code):
    script = f"{code}\nimport sys\nsys.exit(3 if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "letitgo", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


@pytest.mark.slow
def test_help_takes_less_than_half_a_second():
    program = Path(sys.executable).with_name("letitgo")
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([program, "--help"], capture_output=True, check=True)
        took.append(time.perf_counter() - begin)
    assert sorted(took)[2] < 0.5


def test_json_with_a_name_twice_is_refused():
    with pytest.raises(BadRequest, match=r"^model-args is .*: a name stands there twice"):
        json_object("model-args", '{"widths": [8], "widths": [9]}')


@pytest.mark.parametrize("command", ["train", "align", "map"])
def test_a_study_of_which_every_run_failed_shows_no_table(command, capsys):
    assert run([command, "--lr", "1e30", "--epochs", "1", "--workers", "0", "--report", "none"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("letitgo: failed: training everything, seed 0")


def test_a_long_study_writes_a_line_for_each_run_where_stderr_is_no_terminal(capsys, monkeypatch):
    options = ["train", "--epochs", "2", "--seed", "0,1", "--workers", "0"]
    assert run(options) == 0
    assert "done: training" not in capsys.readouterr().err
    monkeypatch.setattr("letitgo.cli.progress.QUIET", 0.0)
    assert run([*options, "--lr", "0.01"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("letitgo: done:")]
    assert [line.partition(" (")[0] for line in lines] == [
        f"letitgo: done: training everything, seed {seed}" for seed in (0, 1)
    ]


# Options from a file


@pytest.fixture
def studies(monkeypatch, tmp_path):
    """What the commands of studies would carry out, and how; they run in a folder of their own."""
    carried_out = []
    monkeypatch.setattr("letitgo.cli.run.run_study", lambda *asked: carried_out.append(asked) or 0)
    monkeypatch.chdir(tmp_path)
    return carried_out


numbers = st.integers(1, 9)
OPTIONS = {
    "epochs": numbers | st.lists(numbers, min_size=1, max_size=3, unique=True),
    "lr": st.floats(1e-9, 1e9),
    "widths": st.sampled_from(["64", "64,32", ["300x100", "8"]]),
    "model-args": st.sampled_from([{"init": "he"}, '{"norm": "batch"}', {}]),
    "blocks": st.sampled_from(["fc1", ["fc*", "!fc2"], "my file's *"]),
    "together": st.booleans(),
    "training-accuracy": st.booleans(),
    "seeds": numbers,
    "workers": numbers,
    "report": st.sampled_from(["none", "a folder", "#5"]),
}


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=st.fixed_dictionaries({}, optional=OPTIONS), data=st.data())
def test_a_file_gives_what_the_command_line_leaves_out(studies, options, data):
    """And the command line that pages show makes the same study without the file."""
    here = data.draw(st.sets(st.sampled_from(sorted(options)))) if options else set()
    lines = [f"{name} = {toml(data.draw(OPTIONS[name]) if name in here else options[name])}" for name in options]
    Path("study.toml").write_text("\n".join(["[train]", "epochs = 7", "[map]", *lines]))
    given = [word for name in sorted(here) for word in spelled(name, options[name])]
    spelled_there = [word for name in sorted(options.keys() - here) for word in spelled(name, options[name])]
    studies.clear()
    assert run(["map", "--config", "study.toml", *given]) == 0
    shown = command_line()
    program, *alone = shlex.split(shown, comments=True)
    for words in (["map", *given, *spelled_there], alone):
        assert run(words) == 0
    (study, running), (other, told), (same, shown_as) = studies
    assert study == other == same
    assert dataclasses.replace(running, config=None) == told == shown_as
    assert (program, shown.partition("  # ")[2]) == ("letitgo", "--config study.toml")


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {json.dumps(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)


def spelled(name, value):
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--{name}=false"]
    values = value if isinstance(value, list) else [value]
    return [w for item in values for w in (f"--{name}", json.dumps(item) if isinstance(item, dict) else str(item))]


def test_the_page_shows_the_options_of_the_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("study.toml").write_text("[train]\nepochs = 1\nfreeze = ['fc1', 'fc2']\nworkers = 0\n")
    assert run(["train", "--config=study.toml", "--seed", "3", "--report", "page"]) == 0
    shown = (
        "letitgo train --seed 3 --report page --epochs 1 --freeze fc1 --freeze fc2 --workers 0  # --config study.toml"
    )
    assert f"<code>{shown}</code>" in Path("page/train.html").read_text()


WRONG_FILES = {
    "unknown option": ("[map]\nepoch = 3", "study.toml: [map] has 'epoch', which is no option: did you mean epochs"),
    "underscore": (
        "[map]\nfreeze_at = 0",
        "study.toml: [map] has 'freeze_at', which is no option: did you mean freeze-at",
    ),
    "file in a file": ("[map]\nconfig = 'a'", "study.toml: [map] has 'config', which is no option"),
    "words for numbers": (
        "[map]\nepochs = 'ten'",
        "epochs is 'ten': give a whole number (options are also read from study",
    ),
    "truth for numbers": ("[map]\nepochs = true", "epochs is 'True': give a whole number (options are also read from"),
    "words for a worker": ("[map]\nworkers = 'a'", "'a' is no whole number (options are also read from study.toml)"),
    "number for truth": ("[map]\ntogether = 1", "study.toml: [map] has together = 1: give true or false"),
    "date": ("[map]\nepochs = 2024-01-01", "epochs is '2024-01-01': give a whole number (options are also read"),
    "list in a list": ("[map]\nlr = [[0.1]]", "lr is '[0.1]': give a number (options are also read from study.toml)"),
    "list for one": ("[map]\nformat = ['json']", "for [format] from study.toml"),
    "unknown choice": ("[map]\nformat = 'xml'", "for [format] from study.toml. Choose from"),
    "nothing": (
        "[map]\nfreeze-at = []",
        "study.toml: [map] has an empty list for freeze-at: leave it out, or give 'none'",
    ),
    "no table": ("[mapp]\nepochs = 3", "study.toml has no table [map] for this command: did you mean mapp?"),
    "outside of tables": ("epochs = 3\n[map]", "study.toml has 'epochs' outside of a table: put it under the name of"),
    "no TOML": ("[map", "study.toml is no TOML file: TOMLDecodeError: Expected ']'"),
    "no text": ("\0\xff", "study.toml is no TOML file"),
    "no file": (None, "config is 'study.toml', which cannot be read (No such file or directory): name a TOML file"),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_a_wrong_file_gets_one_sentence_that_names_it(what, capsys, studies):
    content, sentence = WRONG_FILES[what]
    if content is not None:
        Path("study.toml").write_text(content, encoding="latin-1")
    assert run(["map", "--config", "study.toml"]) == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.err.startswith("letitgo: ")
    assert told.err.count("\n") == 1
    assert not studies
    assert run(["map", "--epochs", "ten"]) == 2
    assert "study.toml" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", sorted({*app, "ticket export"} - {"--help", "-h", "--version", "--install-completion"})
)
def test_every_command_takes_a_file(command):
    _, found, _ = app.parse_commands(command.split())
    assert any("--config" in argument.names for argument in found[-1].assemble_argument_collection())


def test_the_example_of_the_documents_is_what_it_says(studies):
    page = (Path(__file__).parent.parent / "docs/config.md").read_text()
    Path("study.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    for words in page.partition("```sh\n")[2].partition("```")[0].splitlines():
        assert run(shlex.split(words, comments=True)[1:]) == 0
    (swept, _), (longer, _), (trained, _) = studies
    assert [(recipe.lr, recipe.epochs) for recipe in swept.recipes] == [(0.01, 10), (0.1, 10)]
    assert [(recipe.lr, recipe.epochs) for recipe in longer.recipes] == [(0.01, 20), (0.1, 20)]
    assert (swept.freeze_at, swept.together, longer.together) == ((0, 2, 5), True, False)
    assert trained.freeze == ("fc*", "!fc4")


def test_a_command_below_another_has_a_table_there(studies):
    Path("study.toml").write_text("[ticket]\nlevels = 4\n[ticket.export]\nlevel = 2\n")
    assert run(["ticket", "--config", "study.toml"]) == 0
    assert studies[0][0].levels == 4
    assert run(["ticket", "export", "t.safetensors", "--config", "study.toml", "--dry-run"]) == 2
    assert command_line() == "letitgo ticket export t.safetensors --dry-run --level 2  # --config study.toml"


def test_a_command_that_is_out_of_memory_is_told_so(monkeypatch, tmp_path):
    def full(_: object) -> object:
        raise MemoryError

    monkeypatch.setattr("letitgo.cli.runs.existing_store", full)
    ended = command(tmp_path, "runs")
    assert (ended.returncode, ended.stderr) == (
        1,
        "letitgo: out of memory: this machine has too little for what was asked\n",
    )


def test_the_slow_tests_kill_every_study_by_commands_that_there_are():
    assert {*KILLED} == {*STUDIES, "deep-linear"}
    for arguments in KILLED.values():
        app.parse_args([*arguments], exit_on_error=False, print_error=False)
