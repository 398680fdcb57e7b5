"""All commands, in the order in which they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from keel import __version__
from keel.cli import (
    axes,
    calibrate,
    chat,
    check,
    compare,
    demo,
    doctor,
    drift,
    evaluate,
    exchange,
    extract,
    judge,
    prompts,
    report,
    runs,
    serve,
    ui,
)
from keel.cli.help import PlainCommand, RootGroup

EXAMPLES = """
Examples:

    keel demo

    keel extract smollm2 -o runs/smollm2

    keel calibrate runs/smollm2

    keel chat runs/smollm2 --capped
"""

COMMANDS: dict[str, tuple[Callable[..., None] | typer.Typer, str]] = {
    "demo": (demo.demo, demo.EXAMPLES),
    "doctor": (doctor.doctor, doctor.EXAMPLES),
    "extract": (extract.extract, extract.EXAMPLES),
    "judge": (judge.app, judge.EXAMPLES),
    "calibrate": (calibrate.calibrate, calibrate.EXAMPLES),
    "axes": (axes.axes, axes.EXAMPLES),
    "chat": (chat.chat, chat.EXAMPLES),
    "ui": (ui.ui, ui.EXAMPLES),
    "drift": (drift.app, drift.EXAMPLES),
    "evaluate": (evaluate.evaluate, evaluate.EXAMPLES),
    "serve": (serve.serve, serve.EXAMPLES),
    "check": (check.check, check.EXAMPLES),
    "report": (report.report, report.EXAMPLES),
    "ls": (runs.ls, runs.LS_EXAMPLES),
    "info": (runs.info, runs.INFO_EXAMPLES),
    "compare": (compare.compare, compare.EXAMPLES),
    "prompts": (prompts.app, prompts.EXAMPLES),
    "import": (exchange.import_, exchange.IMPORT_EXAMPLES),
    "export": (exchange.export, exchange.EXPORT_EXAMPLES),
}


def make_app(called: str | None = None) -> typer.Typer:
    """All commands; with `called`, the others have their names and first lines only.

    Unfolding every option takes longer than all else that `keel --help` does.
    """
    app = typer.Typer(
        name="keel",
        help="Keep open-weight language models in character: map persona space, watch drift, "
        "cap activations.",
        epilog=EXAMPLES,
        cls=RootGroup,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(keel)
    for name, (command, examples) in COMMANDS.items():
        if called not in (None, name):
            help_ = command.info.help if isinstance(command, typer.Typer) else command.__doc__
            app.command(name, cls=PlainCommand, help=str(help_))(lambda: None)
        elif isinstance(command, typer.Typer):
            app.add_typer(command, name=name, epilog=examples)
        else:
            app.command(name, cls=PlainCommand, epilog=examples)(command)
    return app


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(__version__)
        raise typer.Exit
    return wanted


def keel(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Keep open-weight language models in character."""
