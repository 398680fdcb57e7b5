"""keel import and keel export: files of the reference, of llama.cpp, and of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from keel.cli import console

Target = Literal["axis", "axis-pt", "capping-config", "gguf", "run"]

IMPORT_EXAMPLES = """
Examples:

    keel import assistant_axis.pt -o axis.safetensors --model Qwen/Qwen3-32B

    keel import contrast_vectors.pt -o axis.safetensors --orientation role-ward

    keel import capping_config.pt -o floors.safetensors --setting layers_46:54-p0.25

    keel import s3://bucket/runs/qwen3 -o runs/qwen3
"""

EXPORT_EXAMPLES = """
Examples:

    keel export runs/smollm2 --to axis-pt -o assistant_axis.pt

    keel export runs/smollm2 --to capping-config -o capping_config.pt

    keel export runs/smollm2 --to gguf --strength 0.1 -o axis.gguf

    keel export runs/smollm2 --to run -o s3://bucket/runs/smollm2
"""


def import_(
    source: Annotated[
        str, typer.Argument(help="A .pt or .safetensors file, a hub id, or a run's URL.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="File (.safetensors) or run to write.")],
    setting: Annotated[
        str | None, typer.Option(help="Of a capping_config.pt: the experiment to take.")
    ] = None,
    orientation: Annotated[
        Literal["assistant-ward", "role-ward"] | None,
        typer.Option(help="Which way the file's vectors point."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to check shapes against; it is loaded.")
    ] = None,
    json: console.Json = False,
) -> None:
    """Read a file of the reference implementation and write it in Keel's own form.

    Signs are flipped where they are read: Keel's vectors point towards the Assistant. From a URL
    (s3://, gs://, hf://, file://) a whole run is fetched, as `keel export --to run` put it there.
    """
    from keel.store import load_axis, load_floors, pull_run, save_axis, save_floors

    if "://" in source:
        _show({"run": out, "size_bytes": pull_run(source, out)}, json)
        return
    identity = None if model is None else console.open_model(model).identity
    if setting is not None or "capping" in Path(source).name:
        floors = load_floors(source, setting=setting, identity=identity)
        save_floors([floors], out, default=floors.name)
        written: dict[str, object] = {
            "floors": out,
            "setting": floors.name,
            "layers": floors.layers,
        }
    else:
        axis = load_axis(source, identity=identity, orientation=orientation)
        save_axis(axis, out)
        written = {"axis": out, "layers": len(axis.vector), "hidden_size": axis.vector.shape[1]}
    _show(written, json)


def export(
    run: console.Run,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="PATH", help="File to write; of a run, a URL.")
    ],
    to: Annotated[Target, typer.Option(help="What to write.")] = "axis",
    setting: Annotated[str | None, typer.Option(help="Which of the run's floors.")] = None,
    strength: Annotated[
        float, typer.Option(help="Of a control vector, in units of the residual norm.")
    ] = 0.1,
    band: Annotated[
        str | None, typer.Option(help="Of a control vector, layers START:STOP; else the axis' own.")
    ] = None,
    json: console.Json = False,
) -> None:
    """Write a run's axis or floors in a form that others read, or the whole run to a URL."""
    from keel.errors import UsageError
    from keel.store import (
        export_axis_pt,
        export_capping_config_pt,
        export_gguf_control_vector,
        open_run,
        push_run,
        save_axis,
    )

    opened, file = open_run(run), Path(out)
    match to:
        case "run":
            _show({"written": out, "size_bytes": push_run(run, out)}, json)
            return
        case "axis":
            save_axis(opened.axis, file)
        case "axis-pt":
            export_axis_pt(opened.axis, file)
        case "capping-config":
            floors = opened.floors if setting is None else opened.floors_named(setting)
            export_capping_config_pt([floors], file)
        case "gguf":
            axis = opened.axis
            layers = [axis.layer] if band is None else _layers(band, len(axis.vector))
            if not bool(axis.residual_norm.isfinite().all()):
                raise UsageError("this axis does not know its residual norms; extract it anew")
            export_gguf_control_vector(
                axis.direction * axis.residual_norm[:, None] * strength,
                file,
                identity=opened.identity,
                layers=layers,
            )
    _show({"written": out, "size_bytes": file.stat().st_size}, json)


def _layers(text: str, layers: int) -> Sequence[int]:
    from keel.settings import Band

    band = Band.parse(text)
    band.check_fits(layers)
    return band.layers


def _show(written: dict[str, object], json: bool) -> None:
    if json:
        console.print_json(written)
        return
    for name, value in written.items():
        console.stdout.print(f"{name:<12}{value}", markup=False, soft_wrap=True)
