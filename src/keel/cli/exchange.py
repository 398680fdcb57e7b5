"""keel import and keel export: files of the reference, of llama.cpp, lm-eval, and of the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from keel.cli import console

if TYPE_CHECKING:
    from keel.store import Run

Target = Literal["axis", "axis-pt", "capping-config", "gguf", "lm-eval", "hub", "run"]
_TAKEN_BY = {
    "--setting": ("capping-config",),
    "--strength": ("gguf", "lm-eval"),
    "--band": ("gguf", "lm-eval"),
}
"""The targets that an option is for."""

_ENDINGS = {
    "axis": ".safetensors",
    "axis-pt": ".pt",
    "capping-config": ".pt",
    "gguf": ".gguf",
    "lm-eval": ".pt",
}
"""How the file of a target ends."""

_ADDS = (
    "This file adds a vector to every token; it does not cap, and moves answers that are in "
    "character, too. Capping works in Keel itself: keel chat, keel serve, keel.steered."
)

IMPORT_EXAMPLES = """
Examples:

    keel import assistant_axis.pt -o axis.safetensors --model Qwen/Qwen3-32B

    keel import contrast_vectors.pt -o axis.safetensors --orientation role-ward

    keel import capping_config.pt -o floors.safetensors --setting layers_46:54-p0.25

    keel import control_vector.gguf -o axis.safetensors --orientation assistant-ward

    keel import evil_response_avg_diff.pt -o evil.safetensors --orientation role-ward

    keel import s3://bucket/runs/qwen3 -o runs/qwen3
"""

EXPORT_EXAMPLES = """
Examples:

    keel export runs/smollm2 --to axis-pt -o assistant_axis.pt

    keel export runs/smollm2 --to capping-config -o capping_config.pt

    keel export runs/smollm2 --to gguf --strength 0.1 -o axis.gguf

    keel export runs/smollm2 --to lm-eval --strength 0.1 -o steer.pt

    keel export runs/smollm2 --to hub -o smollm2-axis

    keel export runs/smollm2 --to run -o s3://bucket/runs/smollm2
"""


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A .pt, .gguf, .npy, .npz or .safetensors file, a hub id, or a run's URL.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="File (.safetensors) or run to write.")],
    setting: Annotated[
        str | None, typer.Option(help="Of a capping_config.pt: the experiment to take.")
    ] = None,
    orientation: Annotated[
        Literal["assistant-ward", "role-ward"] | None,
        typer.Option(help="Which way the file's vectors point."),
    ] = None,
    first_row: Annotated[
        Literal["block-0", "embedding"] | None,
        typer.Option(help="What the first row of a tensor is of, where --model does not tell it."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to check shapes against; it is loaded.")
    ] = None,
    json: console.Json = False,
) -> None:
    """Read a file of another program and write it in Keel's own form.

    Read are axes and capping configurations of the reference, control vectors of llama.cpp (GGUF),
    steer files of lm-eval, persona_vectors, and numpy's files. Signs are flipped where they are
    read: Keel's vectors point towards the Assistant. From a URL (s3://, gs://, hf://, file://) a
    whole run is fetched, as `keel export --to run` put it there.
    """
    from keel.store import ROWS_ASSUMED, load_axis, load_floors, pull_run, save_axis, save_floors

    of_axis = {"--orientation": orientation, "--first-row": first_row}
    if "://" in source:
        _refuse(f"{source} is a whole run", {"--setting": setting, "--model": model, **of_axis})
        _show({"run": out, "size_bytes": pull_run(source, out)}, json)
        return
    _check_ending(out, "axis")
    are_floors = setting is not None or "capping" in Path(source).name
    if are_floors:
        _refuse(f"floors are wanted of {source}, which say their sign", of_axis)
    _check_there(source)
    identity = None if model is None else console.open_model(model).identity
    if are_floors:
        floors = load_floors(source, setting=setting, identity=identity)
        save_floors([floors], out, default=floors.name)
        written: dict[str, object] = {
            "floors": out,
            "setting": floors.name,
            "layers": floors.layers,
        }
    else:
        axis = load_axis(source, identity=identity, orientation=orientation, first_row=first_row)
        if axis.provenance.get("rows_in_file") == ROWS_ASSUMED:
            console.stderr.print(
                f"{source} is read as the outputs of blocks 0 to {len(axis.vector) - 1}, which it "
                "does not say; if its first row is the embedding's, as in hidden_states, add "
                "--first-row embedding; --model MODEL tells which",
                markup=False,
                soft_wrap=True,
            )
        save_axis(axis, out)
        written = {"axis": out, "layers": len(axis.vector), "hidden_size": axis.vector.shape[1]}
    _show(written, json)


def _check_ending(out: str | Path, to: Target) -> None:
    """Raise UsageError for an ending that says that the file is something else."""
    from keel.errors import UsageError

    ending, file = _ENDINGS.get(to), Path(out)
    allowed = ("", ending) if ending == ".safetensors" else (ending,)  # known by what they hold
    if ending and file.is_dir():
        raise UsageError(
            f"cannot write to {file}: {file} is a folder; give a file in it, such as "
            f"{file / f'{to}{ending}'}"
        )
    if ending and file.suffix not in allowed:
        raise UsageError(
            f"{file} does not end in {ending}, by which this kind of file is known again; name it "
            f"{file.with_suffix(ending)}"
        )
    if to == "run" and re.match(r"[a-z][a-z0-9+]*:/(?!/)", str(out)):
        raise UsageError(f"{out} is no URL, expected two slashes, such as s3://bucket/run")


def _check_there(source: str) -> None:
    """Raise, before a model is loaded, where the source is a path and no file is there."""
    from keel.store import locate

    if source.startswith((".", "/", "~")) or Path(source).suffix in (".pt", ".gguf", ".npz"):
        locate(source, ())


def _refuse(why: str, options: dict[str, Any]) -> None:
    """Raise UsageError for options that were given and have no effect here."""
    from keel.errors import UsageError

    if given := [name for name, value in options.items() if value is not None]:
        raise UsageError(f"{why}: {', '.join(given)} would have no effect; leave it out")


def export(
    run: console.Run,
    out: Annotated[
        str,
        typer.Option(
            "-o", "--out", metavar="PATH", help="File or folder to write; of a run, a URL."
        ),
    ],
    to: Annotated[
        Target,
        typer.Option(
            help="What to write: the axis (ours, the reference's), floors (capping-config), a "
            "vector to add for llama.cpp (gguf) or lm-eval, a folder with a card for a hub, the "
            "run."
        ),
    ] = "axis",
    setting: Annotated[
        str | None, typer.Option(help="Of capping-config: which of the run's floors.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Of gguf and lm-eval, in units of the residual norm; below 0 it is role-ward. "
            "[default: 0.1]",
            show_default=False,
        ),
    ] = None,
    band: Annotated[
        str | None,
        typer.Option(help="Of gguf and lm-eval: layers START:STOP; else the axis' own."),
    ] = None,
    json: console.Json = False,
) -> None:
    """Write a run's axis or floors in a form that others read, or the whole run to a URL.

    Files for llama.cpp and lm-eval add a vector to every token; they cannot cap.
    """
    from keel.store import (
        export_axis_pt,
        export_capping_config_pt,
        export_hub_folder,
        open_run,
        push_run,
        save_axis,
    )

    given = {"--setting": setting, "--strength": strength, "--band": band}
    for option, targets in _TAKEN_BY.items():
        if to not in targets:
            _refuse(f"--to {to} takes no such option", {option: given[option]})
    opened, file = open_run(run), Path(out)
    _check_ending(out, to)
    match to:
        case "run":
            _show({"written": out, "size_bytes": push_run(run, out)}, json)
            return
        case "hub":
            export_hub_folder(opened, file)
        case "axis":
            save_axis(opened.axis, file)
        case "axis-pt":
            export_axis_pt(opened.axis, file)
        case "capping-config":
            floors = opened.floors if setting is None else opened.floors_named(setting)
            export_capping_config_pt([floors], file)
        case "gguf" | "lm-eval":
            _export_vector(opened, file, to, 0.1 if strength is None else strength, band)
            console.stderr.print(_ADDS, markup=False, soft_wrap=True)
    files = [file] if file.is_file() else [path for path in file.iterdir() if path.is_file()]
    _show({"written": out, "size_bytes": sum(path.stat().st_size for path in files)}, json)


def _export_vector(
    run: Run, file: Path, to: Literal["gguf", "lm-eval"], strength: float, band: str | None
) -> None:
    """Write direction × residual norm × strength. Raises UsageError where a norm is not known."""
    from keel.errors import UsageError
    from keel.store import export_gguf_control_vector, export_lm_eval_steering

    axis = run.axis
    layers = [axis.layer] if band is None else _layers(band, len(axis.vector))
    if not bool(axis.residual_norm.isfinite().all()):
        raise UsageError("this axis does not know its residual norms; extract it anew")
    if strength == 0:
        raise UsageError(
            f"strength is {strength:g}, expected a share of the residual norm such as 0.1 or -0.1"
        )
    vector_LD = axis.direction * axis.residual_norm[:, None] * strength
    if to == "lm-eval":
        blocks = _blocks_of(run.identity.model_id)
        export_lm_eval_steering(vector_LD, file, blocks=blocks, layers=layers)
        return
    export_gguf_control_vector(
        vector_LD,
        file,
        identity=run.identity,
        layers=layers,
        orientation="assistant-ward" if strength > 0 else "role-ward",
    )


def _blocks_of(model: str) -> str:
    """The path of a model's list of blocks below its base model, where lm-eval looks for it.

    Of a small random model of its architecture: no weights are loaded.
    """
    from keel.doctor import shrunken_like
    from keel.engines.transformers import load_config
    from keel.settings import LoadSettings
    from keel.steering import find_decoder

    small = shrunken_like(load_config(model, LoadSettings()).config)
    first = find_decoder(small).blocks[0]
    names = (name for name, module in small.base_model.named_modules() if module is first)
    return str(next(names)).rpartition(".")[0]


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
