"""A command for each study, made from the class of its options."""

# Annotations here are objects made at run time, so they must not become strings.
# pyright: reportInvalidTypeForm=false

from collections.abc import Callable
from typing import Any

from cyclopts import App, Group

from letitgo import processes
from letitgo.cli.options import STUDY, RecipeOptions, RunningOptions, given, option_class, recipe_fields
from letitgo.studies import find_options, find_study


def study_app(name: str, group: Group, package: str = "") -> App:
    """The command of a study: ``letitgo NAME``.

    Args:
        name: Of the study.
        group: Under which the help lists it.
        package: Its room; ``letitgo.studies.NAME`` by default.
    """
    options = find_options(name, package)
    app = App(name=name, group=group, help=options.__doc__.partition("Attributes:")[0], help_on_error=False)
    app.help_epilogue = "\n".join(["**Examples**", "", *(f"- `{line}`: {what}" for line, what in options.EXAMPLES)])
    app.default(command_of(options, lambda: find_study(name, package)))
    return app


def command_of(options: Any, find: Callable[[], Any]) -> Callable[..., int]:
    """The function behind a study's command.

    Args:
        options: The class of its options.
        find: Finds the class of the study, which imports torch.
    """
    Study = option_class(options, STUDY, ("recipes",))

    def with_recipes(
        *, study: Study = Study(), recipe: RecipeOptions = RecipeOptions(), running: RunningOptions = RunningOptions()
    ) -> int:
        _prepare(running)
        from letitgo.cli.run import run_study

        return run_study(make_study(options, find, study, recipe), running)

    def alone(*, study: Study = Study(), running: RunningOptions = RunningOptions()) -> int:
        _prepare(running)
        from letitgo.cli.run import run_study

        return run_study(find()(**given(options, study)), running)

    return with_recipes if "recipes" in options.__pydantic_fields__ else alone


def _prepare(running: RunningOptions) -> None:
    """Have the worker processes import while this one does."""
    if running.workers != 0 and running.on == "processes" and running.device == "cpu" and not running.dry_run:
        processes.prepare()


def make_study(options: Any, find: Callable[[], Any], study: Any, recipe: Any, **fixed: Any) -> Any:
    """The study that a command line asks for.

    Args:
        options: The class of its options.
        find: Finds the class of the study.
        study: The study's options as given.
        recipe: The recipe's options as given.
        fixed: Options that the command sets itself.

    Raises:
        BadRequest: An option is wrong.
    """
    from letitgo.studies.sweep import sweep

    fields = given(options, study) | fixed
    return find()(tuple(sweep(**recipe_fields(recipe))), **fields)
