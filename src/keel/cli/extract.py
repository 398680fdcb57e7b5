"""keel extract: from a model to its Assistant Axis."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.settings import (
    ClusterSettings,
    ExtractSettings,
    ExtractSources,
    NullSettings,
    OpeningSettings,
    PromptSettings,
    Sampling,
    Scale,
)

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.pipeline import ExtractInputs, Extraction
    from keel.rollouts import Cluster

EXAMPLES = """
Examples:

    keel extract smollm2 -o runs/smollm2

    keel extract Qwen/Qwen3-8B -o runs/qwen3 --scale small --judge likelihood

    keel extract ./my-model -o runs/mine --roles roles/ --questions questions.jsonl

    keel extract smollm2 -o runs/both --what both --scale small

    keel extract smollm2 -o runs/smollm2 --null untrained

    keel extract smollm2 -o runs/smollm2 --dry-run

    keel extract smollm2 -o runs/again --seed 1 --choice-seed 0

    keel extract ./my-base-model -o runs/base --rollouts-from runs/mine

    keel extract Qwen/Qwen3-32B -o runs/qwen3 --scale paper --cluster auto --actor-gpus 2
"""

SCALES = {scale: ExtractSettings.at_scale(scale) for scale in get_args(Scale)}


@takes(SCALES, ExtractSources(), NullSettings(), OpeningSettings(), ClusterSettings())
def extract(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="smollm2, a hub id, or a folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="Folder of the run.")],
    scale: Annotated[
        Scale, typer.Option(help="One dial: a minute, an hour, or the paper in full.")
    ] = "smoke",
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Find a model's Assistant Axis: ask it questions in many roles, and map what it does.

    Interrupted, it goes on where it stopped when called again.
    """
    from keel import pipeline
    from keel.engines import check_untrained
    from keel.judge import LikelihoodJudge
    from keel.store import RunFolder

    settings, sources = settings_at(scale, given), given.over(ExtractSources())
    if sources.rollouts_from is not None:
        _check_rereads(given, dry_run)
    inputs = inputs_of(sources)
    null = _null_of(given, settings)
    arguments = given.over(OpeningSettings()).arguments
    folder = RunFolder(out)
    cluster = _cluster_of(given, sources)
    if sources.rollouts_from is None:
        folder_to_check = None if dry_run or overwrite else folder
        pipeline.check_extract(model, folder_to_check, settings, inputs)
    if not dry_run:
        folder.check_free()
    with _answering(model, cluster, arguments) as (engine, on_progress):
        if null is not None:
            check_untrained(engine)  # before the hours that answering takes
        if dry_run:
            price = pipeline.price(engine, settings, inputs, null)
        else:
            if overwrite:
                folder.clear()
            labels = sources.judge == "likelihood"
            extraction = _extractor(sources.rollouts_from, inputs)(
                engine,
                folder,
                settings=settings,
                judge=LikelihoodJudge(engine) if labels else None,  # type: ignore[arg-type]
                command=f"keel extract {model} -o {out} with the same options",
                on_progress=on_progress,
            )
            if null is not None:
                measured = pipeline.measure_untrained(
                    engine,  # type: ignore[arg-type]  # a cluster was refused
                    folder,
                    null,
                    on_progress=on_progress,
                )
                extraction = replace(extraction, untrained=measured)
    if dry_run:
        console.print_price(price, json)
    else:
        show_map(extraction, out, json)


def show_map(extraction: Extraction, out: Path, json: bool) -> None:
    """Print an extraction's sections, or its main numbers as JSON."""
    if json:
        console.print_json({"run": out, **results.extraction_record(extraction)})
        return
    results.print_results(
        persona_map=extraction.persona_map,
        trait_map=extraction.trait_map,
        untrained=extraction.untrained,
        cut_share=extraction.cut_share,
    )
    run = escape(str(out))
    first = f"[b]keel calibrate {run}[/b], then " if extraction.persona_map is not None else ""
    results.print_next(f"Next: {first}[b]keel report {run}[/b]")


def settings_at(scale: Scale, given: Given) -> ExtractSettings:
    """The scale's settings with what was given in place of their own.

    Raises UsageError for a label that nobody gives.
    """
    from keel.errors import UsageError
    from keel.personas import TraitSettings

    base = ExtractSettings.at_scale(scale, given.seed)
    if given.values.get("--judge", "none") != "none":
        base = replace(base, mapping=replace(base.mapping, label="playing"))
    elif given.values.get("--label", "all") != "all":
        raise UsageError(
            f"--label is {given.values['--label']!r}, and nothing is judged; name a judge with "
            "--judge, or leave it out"
        )
    # What is given in place of Keel's is taken whole where no count says otherwise.
    files = {"--roles": "roles", "--traits": "traits", "--questions": "questions"}
    whole: dict[str, Any] = {name: None for file, name in files.items() if file in given.values}
    base = replace(base, prompts=replace(base.prompts, **whole))
    # Where more pairs must differ than are judged by default, so many are judged.
    judged = max(TraitSettings().judged_pairs, given.values.get("--min-pairs", 0))
    return given.over(replace(base, traits=replace(base.traits, judged_pairs=judged)))


def _null_of(given: Given, settings: ExtractSettings) -> NullSettings | None:
    """What untrained models are to do; None where none are asked for. Raises UsageError."""
    from keel.errors import UsageError

    null = given.over(NullSettings())
    if null.null != "untrained":
        if "--null-seeds" in given.values:
            raise UsageError("--null-seeds is of untrained models; add --null untrained")
        return None
    if settings.what == "traits":
        raise UsageError(
            "--null untrained is of the axis, and traits alone give none; add roles with "
            "--what both, or leave it out"
        )
    if given.names(ClusterSettings()):
        raise UsageError(
            "--null untrained makes models in this process, which a cluster has not; extract "
            "without it, then give the same command here with it and without --cluster"
        )
    return null


def inputs_of(sources: ExtractSources) -> ExtractInputs:
    """The library with the files that were given in place of Keel's own."""
    from keel.pipeline import ExtractInputs
    from keel.prompts import load_library, read_questions, read_roles, read_traits

    library = load_library()
    names = []
    if sources.roles is not None:
        own = read_roles(sources.roles)
        default = own.default_prompts or library.default_prompts
        library = replace(library, roles=own.roles, default_prompts=default)
        whose = "its own" if own.default_prompts else "keel's"
        names.append(f"roles of {sources.roles.name} with {whose} default")
    if sources.traits is not None:
        library = replace(library, traits=read_traits(sources.traits))
        names.append(f"traits of {sources.traits.name}")
    if sources.questions is not None:
        library = replace(library, questions=read_questions(sources.questions))
        names.append(f"questions of {sources.questions.name}")
    return ExtractInputs(library, ", ".join(names) or "keel")


def _check_rereads(given: Given, dry_run: bool) -> None:
    """Refuse options on how to ask where the answers are there. Raises UsageError."""
    from keel.errors import UsageError

    files = ["--roles", "--traits", "--questions"]
    asking = (
        given.names(Sampling()) + given.names(PromptSettings()) + given.names(ClusterSettings())
    )
    options = [*(name for name in files if name in given.values), *asking]
    options += ["--what"] * ("--what" in given.values) + ["--dry-run"] * dry_run
    if options:
        raise UsageError(
            "--rollouts-from reads the answers that are there, all of them; leave out what says "
            f"how to ask: {', '.join(options)}"
        )


def _extractor(source: Path | None, inputs: ExtractInputs) -> Callable[..., Extraction]:
    """What makes the run: new answers, or those of another run read again."""
    from keel import pipeline
    from keel.store import open_run

    if source is None:
        return partial(pipeline.extract, inputs=inputs)
    return partial(pipeline.reread, source=open_run(source))


def _cluster_of(given: Given, sources: ExtractSources) -> ClusterSettings | None:
    """The cluster that is to answer; None for this process."""
    from keel.errors import UsageError

    named = given.names(ClusterSettings())
    if "--cluster" not in named:
        if named:
            raise UsageError("--actors and --actor-gpus are for a cluster; add --cluster auto")
        return None
    if sources.judge != "none":
        raise UsageError(
            f"--judge {sources.judge} reads with a model of its own, which a cluster has not; "
            "extract without it, then: keel judge RUN --remap"
        )
    return given.over(ClusterSettings())


@contextmanager
def _answering(
    model: str, where: ClusterSettings | None, arguments: dict[str, Any]
) -> Iterator[tuple[Engine | Cluster, console.Progress]]:
    """The engine or cluster that answers, and the callback for its progress."""
    if where is None:
        engine = console.load_engine(model, arguments)
        with console.progress() as progress:
            yield engine, progress
        return
    from keel.rollouts import open_cluster

    with (
        redirect_stdout(sys.stderr),  # where Ray tells of lost machines; stdout is for results
        console.progress() as progress,
        open_cluster(
            model, where=where, on_engines=partial(progress, "engines on the cluster"), **arguments
        ) as cluster,
    ):
        yield cluster, progress
    if cluster.lost:
        lost = f"{cluster.lost} batches were lost with their engine and answered again"
        console.stderr.print(lost)
