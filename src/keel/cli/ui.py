"""keel ui: a local page on which the model answers uncapped and capped, side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keel.cli import console
from keel.cli.axes import run_of
from keel.cli.options import Given, takes
from keel.settings import AxisSource, OpeningSettings, UiSettings

EXAMPLES = """
Examples:

    keel ui runs/demo

    keel ui runs/mine --setting layers_12:17-p75 --open
"""


@takes(UiSettings(), AxisSource(), OpeningSettings())
def ui(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=True)
    ] = Path("runs/demo"),
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Serve a page on this machine where the model answers uncapped and capped, side by side.

    The address that is printed holds a token; without it nobody is answered. Ctrl-C ends it. To
    reach it from elsewhere, forward the port: `ssh -L 8765:127.0.0.1:8765 HOST`.
    """
    from keel.drift import Gauge
    from keel.pipeline import drift_layer, floors_of
    from keel.store import open_run
    from keel.ui import Address, open_side_by_side, serve_page

    settings = given.over(UiSettings())
    run = run_of(run, given, settings.setting)
    opened = open_run(run)
    # Refused before the model is loaded: an axis that does not know both means.
    Gauge(opened.axis, drift_layer(opened.axis, floors_of(opened, settings.setting)))
    opening = given.over(OpeningSettings())
    model = open_side_by_side(opened, lambda name: console.open_model(name, opening))

    def show(address: Address) -> None:
        if json:
            console.print_json({"address": str(address), "run": run})
        else:
            console.stderr.print("The page is open here, until Ctrl-C:", markup=False)
            print(address)
        sys.stdout.flush()  # whoever starts it waits for this
        if settings.opens_browser:
            typer.launch(str(address))

    serve_page(model, settings, show)
