"""The program: commands, and what becomes of errors."""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from typing import Any

from cyclopts import App, CycloptsError, Group, UnknownOptionError

from letitgo import __version__
from letitgo.cli import config, interrupt
from letitgo.cli.commands import study_app
from letitgo.cli.tables import printable
from letitgo.cli.ticket import export
from letitgo.errors import BadRequest, LetItGoError, out_of_memory
from letitgo.studies import STUDIES

QUESTIONS = Group("Studies", sort_key=0)
NETWORK = Group("Your network", sort_key=1)
STORE = Group("The store", sort_key=2)

app = App(
    name="letitgo",
    help="Which parts of a network need training, and what does it cost to leave the rest alone?",
    version=__version__,
    config=config.read_config,
    help_on_error=False,
    suppress_keyboard_interrupt=False,
)
for _name in STUDIES:
    _app = study_app(_name, NETWORK if _name == "train" else QUESTIONS)
    if _name == "ticket":
        _app.command(export)
    app.command(_app)
app.command(study_app("deep-linear", QUESTIONS, "letitgo.deep_linear"))
_COMMANDS = {
    "reproduce": (QUESTIONS, "Compare a paper's claims with measurements."),
    "inspect": (NETWORK, "Show what trains in a network, and what it costs."),
    "bisect": (NETWORK, "Find the layers whose changes carry the gain of a fine-tune."),
    "diff": (NETWORK, "Show which layers differ between two files of weights."),
    "runs": (STORE, "List what the store holds."),
    "show": (STORE, "Show one result and its provenance."),
    "clean": (STORE, "List what no study needs any more; remove it on request."),
    "export": (STORE, "Write all measurements as one Parquet table."),
    "merge": (STORE, "Take in the results of another store."),
}
for _name, (_group, _help) in _COMMANDS.items():
    _function = "inspect_model" if _name == "inspect" else _name
    app.command(f"letitgo.cli.{_name}:{_function}", name=_name, help=_help, group=_group)
app.register_install_completion_command()


def main() -> None:
    """Entry point of the console script."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    interrupt.watch()
    warnings.showwarning = _show_warning
    gc.set_threshold(100_000)  # importing torch makes a million objects, and no garbage
    code = run(sys.argv[1:])
    gc.freeze()  # nor is any looked for at the end, which would take 0.6 s
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Carry out one command line.

    Returns:
        The exit code: 0; 2 for a request that cannot be carried out as it was put; 1 for work that failed; 130 after
        an interrupt.
    """
    config.begin(arguments)
    try:
        return app(arguments, exit_on_error=False, print_error=False, result_action="return_value") or 0
    except CycloptsError as error:
        return _give_up(BadRequest(_told(error)), arguments)
    except LetItGoError as error:
        return _give_up(error, arguments)
    except KeyboardInterrupt:
        return _stop()
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more, and the interpreter would complain at its end
        return 1
    except Exception as error:
        return _give_up(error, arguments)


def _told(error: CycloptsError) -> str:
    what, command = str(error).replace("\n", " "), " ".join(error.command_chain or ())
    return f"{what} (letitgo {command} --help lists its options)" if isinstance(error, UnknownOptionError) else what


def _stop() -> int:
    print("letitgo: interrupted; finished results are in the store, the same command resumes", file=sys.stderr)
    return 130


def _give_up(error: Exception, arguments: list[str]) -> int:
    if interrupt.seen():
        return _stop()
    if "--debug" in arguments:
        traceback.print_exception(error)
    what = str(error)
    if isinstance(error, BadRequest):
        what = config.told(what)
    elif out_of_memory(error):
        what = "out of memory: this machine has too little for what was asked"
    elif not isinstance(error, LetItGoError):
        what = f"{type(error).__name__}: {what} (an unexpected error; --debug shows where)"
    print(f"letitgo: {printable(what)}", file=sys.stderr)
    return error.exit_code if isinstance(error, LetItGoError) else 1


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"letitgo: warning: {printable(message)}", file=sys.stderr)
