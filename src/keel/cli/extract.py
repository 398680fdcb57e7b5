"""keel extract: from a model to its Assistant Axis."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console
from keel.cli.asking import check_unasked, inputs_of, maker_of, pairs_to_judge, settings_of

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.judge import Judge
    from keel.pipeline import Extraction
    from keel.rollouts import Cluster, ClusterSettings

EXAMPLES = """
Examples:

    keel extract smollm2 -o runs/smollm2

    keel extract Qwen/Qwen3-8B -o runs/qwen3 --scale small --judge likelihood

    keel extract ./my-model -o runs/mine --roles roles/ --questions questions.jsonl

    keel extract smollm2 -o runs/both --what both --scale small

    keel extract smollm2 -o runs/smollm2 --dry-run

    keel extract smollm2 -o runs/again --seed 1 --choice-seed 0

    keel extract ./my-base-model -o runs/base --rollouts-from runs/mine

    keel extract Qwen/Qwen3-32B -o runs/qwen3 --scale paper --cluster auto --actor-gpus 2
"""


class Scale(StrEnum):
    """How much is asked of how many roles."""

    smoke = "smoke"
    small = "small"
    paper = "paper"


class What(StrEnum):
    """What a run answers as."""

    roles = "roles"
    traits = "traits"
    both = "both"


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
    what: Annotated[
        What, typer.Option(help="What it answers as; roles give the axis.")
    ] = What.roles,
    scale: Annotated[Scale, typer.Option(help="One dial for all sizes below.")] = Scale.smoke,
    roles: Annotated[
        Path | None, typer.Option(help="Folder of role files, ours or the reference's.")
    ] = None,
    traits: Annotated[
        Path | None, typer.Option(help="Folder of trait files, ours or the reference's.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="File of questions: JSONL, or one a line.")
    ] = None,
    role_count: Annotated[int | None, typer.Option(help="Roles to take.", min=3)] = None,
    trait_count: Annotated[int | None, typer.Option(help="Traits to take.", min=3)] = None,
    question_count: Annotated[int | None, typer.Option(help="Questions to take.", min=2)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", min=0)] = None,
    rollouts_from: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Read that run's answers instead of giving new ones."),
    ] = None,
    judge: Annotated[JudgeName, typer.Option(help="Who labels the answers.")] = JudgeName.none,
    min_count: Annotated[int | None, typer.Option(help="Answers a role needs.", min=1)] = None,
    min_pairs: Annotated[
        int | None, typer.Option(help="Pairs of answers that must differ in a trait.", min=1)
    ] = None,
    keep: Annotated[Keep, typer.Option(help="What stays of the activations.")] = Keep.means,
    seed: console.Seed = 0,
    choice_seed: Annotated[
        int | None,
        typer.Option(help="Decides which roles, traits and questions are taken; else --seed."),
    ] = None,
    engine_name: console.EngineName = "transformers",
    device: console.Device = "auto",
    dtype: console.Dtype = "auto",
    blocks: console.Blocks = None,
    trust_remote_code: console.RemoteCode = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Answer on a Ray cluster: HOST:PORT of its head, auto, or local (this machine).",
        ),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(help="Engines on the cluster; else as many as fit.", min=1)
    ] = None,
    actor_gpus: Annotated[
        int | None, typer.Option(help="GPUs of each; else 1 where there are any.", min=0)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start the run over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take.")] = False,
    json: console.Json = False,
) -> None:
    """Find a model's Assistant Axis: ask it questions in many roles, and map what it does.

    Interrupted, it goes on where it stopped when called again.
    """
    from keel import pipeline
    from keel.store import RunFolder

    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    counts = {"roles": role_count, "traits": trait_count, "questions": question_count}
    if rollouts_from is not None:
        files = {"roles": roles, "traits": traits, "questions": questions}
        sizes = {f"{name[:-1]}-count": count for name, count in counts.items()}
        others = {"choice-seed": choice_seed, "cluster": cluster}
        check_unasked({**files, **sampling, **sizes, **others}, what.value, dry_run)
    inputs = inputs_of(roles, traits, questions)
    settings = settings_of(
        pipeline.ExtractSettings.at_scale(scale.value, seed),
        sampling=sampling,
        prompts={**counts, "seed": choice_seed},
        mapping={"min_count": min_count, "label": _label(judge)},
        traits={"min_pairs": min_pairs, "judged_pairs": pairs_to_judge(min_pairs)},
        keep=keep.value,
        what=what.value,
    )
    opening = console.opening(device, dtype, blocks, trust_remote_code, engine_name)
    folder = RunFolder(out)
    with _answering(model, _where(cluster, actors, actor_gpus, judge), opening) as (engine, tell):
        if dry_run:
            price = pipeline.price(engine, settings, inputs)
        else:
            if overwrite:
                folder.clear()
            found = maker_of(rollouts_from, inputs)(
                engine,
                folder,
                settings=settings,
                judge=_judge(engine, judge),
                command=f"keel extract {model} -o {out} with the same options",
                on_progress=tell,
            )
    if dry_run:
        _show_price(price, json)
    else:
        show_map(found, out, json)


def show_map(found: Extraction, out: Path, json: bool) -> None:
    """What an extraction found, as words or JSON."""
    from keel.cli.findings import found_summary, found_words

    if json:
        console.print_json({"run": out, **found_summary(found)})
        return
    for line in found_words(found):
        console.stdout.print(line)
    run = escape(str(out))
    first = f"[b]keel calibrate {run}[/b], then " if found.persona_map is not None else ""
    console.stdout.print(f"\nNext: {first}[b]keel report {run}[/b]")


def _where(
    cluster: str | None, actors: int | None, gpus: int | None, judge: JudgeName
) -> ClusterSettings | None:
    """The cluster that is to answer; None for this process."""
    from keel.errors import UsageError
    from keel.rollouts import ClusterSettings

    if cluster is None:
        if actors is not None or gpus is not None:
            raise UsageError("--actors and --actor-gpus are for a cluster; add --cluster auto")
        return None
    if judge is not JudgeName.none:
        raise UsageError(
            f"--judge {judge.value} reads with a model of its own, which a cluster has not; "
            "extract without it, then: keel judge RUN --remap"
        )
    return ClusterSettings(cluster, actors, gpus)


@contextmanager
def _answering(
    model: str, where: ClusterSettings | None, opening: dict[str, Any]
) -> Iterator[tuple[Engine | Cluster, console.Progress]]:
    """Whoever answers, here or on a cluster, and whom to tell how far it is."""
    if where is None:
        engine = console.loaded(model, opening)
        with console.progress() as progress:
            yield engine, progress
        return
    from keel.rollouts import open_cluster

    with (
        redirect_stdout(sys.stderr),  # where Ray tells of lost machines; stdout is for results
        console.progress() as progress,
        open_cluster(
            model, where=where, on_engines=partial(progress, "engines on the cluster"), **opening
        ) as cluster,
    ):
        yield cluster, progress
    if cluster.lost:
        told = f"{cluster.lost} batches were lost with their engine and answered again"
        console.stderr.print(told)


def _label(judge: JudgeName) -> str | None:
    """Which answers count, where somebody labelled them."""
    return None if judge is JudgeName.none else "playing"


def _judge(engine: Any, judge: JudgeName) -> Judge | None:
    from keel.judge import LikelihoodJudge

    return LikelihoodJudge(engine) if judge is JudgeName.likelihood else None


def _show_price(price: dict[str, Any], json: bool) -> None:
    if json:
        console.print_json(price)
        return
    for name, value in price.items():
        console.stdout.print(f"{name:<34}{value}")
