"""The program: commands, and what becomes of errors."""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Any

from cyclopts import App, CycloptsError

from letitgo import __version__
from letitgo.cli import interrupt
from letitgo.cli.tables import printable
from letitgo.errors import BadRequest, LetItGoError

app = App(
    name="letitgo",
    help="Which parts of a network need training, and what does it cost to leave the rest alone?",
    version=__version__,
    help_on_error=False,
    suppress_keyboard_interrupt=False,
)
app.command("letitgo.cli.map:map_layers", name="map", help="Tell which layers of a network need training.")
app.command("letitgo.cli.train:train", name="train", help="Train a network once, with some of it frozen.")
app.command(
    "letitgo.cli.inspect:inspect_model", name="inspect", help="Tell what trains in a network, and what it costs."
)
app.command(
    "letitgo.cli.classifier:classifier", name="classifier", help="Tell whether a network's classifier needs training."
)
app.command(
    "letitgo.cli.fraction:learn_fraction", name="fraction", help="Tell how much of a network has to be learned."
)
app.command(
    "letitgo.cli.transfer:transfer", name="transfer", help="Tell whether lottery tickets carry over to other data."
)
app.command(
    "letitgo.cli.align:align", name="align", help="Tell whether gradient descent aligns the layers of a network."
)
app.command(
    "letitgo.cli.ticket:app", name="ticket", help="Tell which weights of a network could have been trained alone."
)
app.command(
    "letitgo.cli.dimension:dimension", name="dimension", help="Tell how few dimensions a network needs to learn in."
)
app.command("letitgo.cli.runs:runs", name="runs", help="Tell what the store holds.")
app.command("letitgo.cli.show:show", name="show", help="Tell of one result, and what it came from.")
app.command("letitgo.cli.clean:clean", name="clean", help="Tell what no study needs any more; remove it if asked.")
app.command("letitgo.cli.export:export", name="export", help="Write all measurements as one Parquet table.")
app.command("letitgo.cli.merge:merge", name="merge", help="Take in the results of another store.")
app.command("letitgo.cli.reproduce:reproduce", name="reproduce", help="Hold what a paper says against measurements.")


def main() -> None:
    """Entry point of the console script."""
    interrupt.watch()
    warnings.showwarning = _show_warning
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Carry out one command line.

    Returns:
        The exit code: 0; 2 for a request that cannot be carried out as it was put; 1 for work that failed; 130 after
        an interrupt.
    """
    try:
        return app(arguments, exit_on_error=False, print_error=False, result_action="return_value") or 0
    except CycloptsError as error:
        return _give_up(BadRequest(str(error).replace("\n", " ")), arguments)
    except LetItGoError as error:
        return _give_up(error, arguments)
    except KeyboardInterrupt:
        return _stop()
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more, and the interpreter would complain at its end
        return 1
    except Exception as error:
        return _give_up(error, arguments)


def _stop() -> int:
    print("letitgo: interrupted; what was finished is in the store, the same command goes on", file=sys.stderr)
    return 130


def _give_up(error: Exception, arguments: list[str]) -> int:
    if interrupt.seen():
        return _stop()
    if "--debug" in arguments:
        traceback.print_exception(error)
    known = isinstance(error, LetItGoError)
    what = str(error) if known else f"{type(error).__name__}: {error} (an error nobody foresaw; see it with --debug)"
    print(f"letitgo: {printable(what)}", file=sys.stderr)
    return error.exit_code if isinstance(error, LetItGoError) else 1


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"letitgo: warning: {printable(message)}", file=sys.stderr)
