"""keel serve: a run's model behind vLLM's own server, capped or not served at all."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keel.cli import console
from keel.cli.axes import run_of
from keel.cli.options import Given, takes
from keel.settings import AxisSource, ServeSettings

if TYPE_CHECKING:
    from keel.serve import ProbeResult

EXAMPLES = """
Examples:

    keel serve runs/demo

    keel serve runs/demo --setting none --allow layers_21:26-p75

    keel serve Qwen/Qwen3-32B --axis qwen-3-32b

    keel serve Qwen/Qwen3-32B --floors capping_config.pt --setting layers_46:54-p0.25

    keel serve runs/qwen3 --enforce -- --tensor-parallel-size 4 --port 9000
"""


@takes(ServeSettings(), AxisSource())
def serve(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run, or a file of floors.", show_default=False
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VLLM_ARGUMENT",
            help="After --: any argument of vllm serve.",
            show_default=False,
        ),
    ] = None,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Serve a run's model with vLLM, capped: an OpenAI-compatible server, or none at all.

    Runs in an environment that has vLLM. `/health` is red until a probe over HTTP has shown that
    the floors act and that an unknown setting is refused.
    """
    from keel.serve import plan_server, run_server

    source, settings = source_of(run, given)
    plan = plan_server(source, settings, arguments or [])
    for note in plan.notes:
        print(f"keel: {note}", file=sys.stderr)

    def say(result: ProbeResult) -> None:
        print(f"keel: {result.line}", file=sys.stderr, flush=True)
        if json:  # whoever starts it can wait for this
            console.print_json(result)
            sys.stdout.flush()

    run_server(plan, canary_s=60 * settings.canary_minutes, on_open=say)


def source_of(run: Path, given: Given) -> tuple[str | Path, ServeSettings]:
    """Where a server's floors are, and how they hold it.

    With `--floors` alone it is that file, and the model stands in the run's stead. Raises
    MissingArtifactError for an axis without floors: nothing is served uncapped by mistake.
    """
    from keel.errors import MissingArtifactError
    from keel.store import open_run

    settings, elsewhere = given.over(ServeSettings()), given.over(AxisSource())
    if elsewhere.axis is None and elsewhere.floors is not None:
        return elsewhere.floors, replace(settings, model=settings.model or str(run))
    source = run_of(run, given, settings.setting)
    if elsewhere.axis is not None and not (opened := open_run(source)).has_floors:
        raise MissingArtifactError(
            f"the axis {elsewhere.axis} comes without floors to cap with; {opened.floors_remedy}"
        )
    return source, settings
