"""keel extract: from a model to its Assistant Axis."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console

if TYPE_CHECKING:
    from keel.pipeline import ExtractInputs, ExtractSettings
    from keel.types import PersonaMap

EXAMPLES = """
Examples:

    keel extract smollm2 -o runs/smollm2

    keel extract Qwen/Qwen3-8B -o runs/qwen3 --scale small --judge likelihood

    keel extract ./my-model -o runs/mine --roles roles/ --questions questions.jsonl

    keel extract smollm2 -o runs/smollm2 --dry-run
"""


class Scale(StrEnum):
    """How much is asked of how many roles."""

    smoke = "smoke"
    small = "small"
    paper = "paper"


class JudgeName(StrEnum):
    """Who labels the rollouts."""

    none = "none"
    likelihood = "likelihood"


class Keep(StrEnum):
    """What stays of the activations."""

    means = "means"
    sample = "sample"
    none = "none"


def extract(
    model: Annotated[str, typer.Argument(help="smollm2, a hub id, or a folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="Folder of the run.")],
    scale: Annotated[Scale, typer.Option(help="One dial for all sizes below.")] = Scale.smoke,
    roles: Annotated[
        Path | None, typer.Option(help="Folder of role files, ours or the reference's.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="File of questions: JSONL, or one a line.")
    ] = None,
    role_count: Annotated[int | None, typer.Option(help="Roles to take.", min=3)] = None,
    question_count: Annotated[int | None, typer.Option(help="Questions to take.", min=2)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", min=0)] = None,
    judge: Annotated[JudgeName, typer.Option(help="Who labels the answers.")] = JudgeName.none,
    min_count: Annotated[int | None, typer.Option(help="Answers a role needs.", min=1)] = None,
    keep: Annotated[Keep, typer.Option(help="What stays of the activations.")] = Keep.means,
    seed: console.Seed = 0,
    device: console.Device = "auto",
    dtype: console.Dtype = "auto",
    blocks: console.Blocks = None,
    trust_remote_code: console.RemoteCode = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start the run over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take.")] = False,
    json: console.Json = False,
) -> None:
    """Find a model's Assistant Axis: ask it questions in many roles, and map what it does.

    Interrupted, it goes on where it stopped when called again.
    """
    from keel import pipeline
    from keel.judge import LikelihoodJudge
    from keel.store import RunFolder

    inputs = _inputs(roles, questions)
    settings = _settings(
        pipeline.ExtractSettings.at_scale(scale.value, seed),
        sampling={"max_new_tokens": max_new_tokens, "temperature": temperature},
        prompts={"roles": role_count, "questions": question_count},
        mapping={
            "min_count": min_count,
            "label": None if judge is JudgeName.none else "playing",
        },
        keep=keep.value,
    )
    engine = console.open_model(model, device, dtype, blocks, trust_remote_code)
    if dry_run:
        _show_price(pipeline.price(engine, settings, inputs), json)
        return
    folder = RunFolder(out)
    if overwrite:
        folder.clear()
    with console.progress() as progress:
        found = pipeline.extract(
            engine,
            folder,
            settings,
            inputs=inputs,
            judge=LikelihoodJudge(engine) if judge is JudgeName.likelihood else None,
            command=f"keel extract {model} -o {out} with the same options",
            on_progress=progress,
        )
    show_map(found, out, json)


def show_map(found: PersonaMap, out: Path, json: bool) -> None:
    """What an extraction found, as words or JSON."""
    from keel.cli.findings import map_summary, map_words

    if json:
        console.print_json({"run": out, **map_summary(found)})
        return
    for line in map_words(found):
        console.stdout.print(line)
    run = escape(str(out))
    console.stdout.print(f"\nNext: [b]keel calibrate {run}[/b], then [b]keel report {run}[/b]")


def _inputs(roles: Path | None, questions: Path | None) -> ExtractInputs:
    from dataclasses import replace

    from keel.pipeline import ExtractInputs
    from keel.prompts import load_library, read_questions, read_roles

    library = load_library()
    source = []
    if roles is not None:
        read = read_roles(roles)
        default = read.default_prompts or library.default_prompts
        library = replace(read, default_prompts=default, questions=library.questions)
        whose = "its own" if read.default_prompts else "keel's"
        source.append(f"roles of {roles.name} with {whose} default")
    if questions is not None:
        library = replace(library, questions=read_questions(questions))
        source.append(f"questions of {questions.name}")
    return ExtractInputs(library, ", ".join(source) or "keel")


def _settings(base: ExtractSettings, *, keep: Any, **parts: dict[str, Any]) -> ExtractSettings:
    """The scale's settings with those that were given in their place."""
    from dataclasses import replace

    changed = {
        part: replace(getattr(base, part), **{k: v for k, v in given.items() if v is not None})
        for part, given in parts.items()
    }
    return replace(base, keep=keep, **changed)


def _show_price(price: dict[str, Any], json: bool) -> None:
    if json:
        console.print_json(price)
        return
    for name, value in price.items():
        console.stdout.print(f"{name:<34}{value}")
