"""Makes a run: prompts answered, or another run's answers read again, then judged and mapped."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from keel.engines import Batch, Engine, spoken_name
from keel.errors import TooFewSamplesError
from keel.judge import Judge
from keel.personas import FEWEST_ROLES, FEWEST_TRAITS
from keel.pipeline.maps import (
    Extraction,
    Judges,
    is_mapped,
    judge_rollouts,
    make_maps,
    pairs_to_judge,
)
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.prompts import (
    Library,
    load_library,
    make_default_prompts,
    make_prompts,
    make_trait_prompts,
    sample_prompts,
)
from keel.rollouts import Cluster, answer_prompts, read_rollouts
from keel.settings import ExtractSettings, NullSettings, Spans
from keel.store import Run, RunFolder, RunPlan
from keel.types import Prompt


@dataclass(frozen=True)
class ExtractInputs:
    """The roles, traits and questions of an extraction."""

    library: Library = field(default_factory=load_library)
    source: str = "keel"
    """Where the prompts come from, for the run's records."""


def extract(
    engine: Engine | Cluster,
    folder: RunFolder,
    settings: ExtractSettings,
    *,
    inputs: ExtractInputs | None = None,
    judge: Judge | None = None,
    command: str = "",
    on_progress: OnProgress = silent,
) -> Extraction:
    """Prompts -> rollouts with activations -> (judgements) -> vectors, spaces, axis.

    A cluster's machines answer; everything else happens in this process. An interrupted call is
    resumed by the same arguments, to the same result. Of a finished run only the maps are made
    again, and only for another judge or other map settings. Without a judge every answer in a
    role counts, and some pairs of each trait are compared by their likelihood. Raises
    StaleArtifactError when the folder was begun with other prompts, sampling or model, and
    TooFewSamplesError, before anything is answered, when no role or no trait could have enough
    answers.
    """
    inputs = inputs or ExtractInputs()
    prompts = _prompts(engine.identity.model_id, settings, inputs)
    return extract_prompts(
        engine,
        folder,
        settings,
        prompts=prompts,
        source=inputs.source,
        judge=judge,
        command=command,
        on_progress=on_progress,
    )


def extract_prompts(
    engine: Engine | Cluster,
    folder: RunFolder,
    settings: ExtractSettings,
    *,
    prompts: Sequence[Prompt],
    source: str,
    judge: Judge | None = None,
    command: str = "",
    on_progress: OnProgress = silent,
) -> Extraction:
    """As `extract`, of prompts that were made before; `source` says where they come from."""
    with folder.lock():
        recorded = _recorded(settings, source) | _recorded_spans(engine, settings.spans)
        batches = tuple(batch.indices for batch in engine.plan(prompts, settings.sampling))
        plan = folder.begin(_plan(engine, recorded, settings.seed, batches, command), prompts)
        answer = partial(_answer, engine, folder, plan, prompts, settings, on_progress)
        return _complete(
            engine, folder, prompts, settings, answer=answer, judge=judge, on_progress=on_progress
        )


def check_extract(
    model: str, folder: RunFolder | None, settings: ExtractSettings, inputs: ExtractInputs
) -> None:
    """Raise, before the model is loaded, where its extraction would be refused.

    TooFewSamplesError and UsageError for what is asked; where a folder is given, StaleArtifactError
    for one that was begun with other prompts or settings, and RunLockedError and StorageError.
    """
    prompts = _prompts(model, settings, inputs)
    if folder is not None:
        folder.check_free()
        folder.check_begun(_recorded(settings, inputs.source), settings.seed, prompts)


def reread(
    engine: Engine,
    folder: RunFolder,
    source: Run,
    settings: ExtractSettings,
    *,
    judge: Judge | None = None,
    command: str = "",
    on_progress: OnProgress = silent,
) -> Extraction:
    """Another run's rollouts -> this model's activations of the same text -> maps, in a new run.

    Settings of prompts and sampling are not used: the rollouts are given. An interrupted call is
    resumed. Raises StaleArtifactError when the folder was begun with other rollouts or another
    model.
    """
    # As they were planned, so that roles and traits keep their order.
    batches = source.plan.batches
    answered = (rollout.prompt for rollout in source.rollouts())
    indexed = zip(chain.from_iterable(batches), answered, strict=True)
    prompts = [prompt for _, prompt in sorted(indexed, key=itemgetter(0))]
    files = source.manifest.files
    rollouts_from = {
        "settings": source.manifest.settings,
        "model": asdict(source.identity),
        "rollouts": {n: files[n] for n in files if n.startswith("rollouts/")},
    }
    recorded = {
        "rollouts_from": rollouts_from,
        "seed": settings.seed,
        **_recorded_spans(engine, settings.spans),
    }
    with folder.lock():
        plan = folder.begin(_plan(engine, recorded, settings.seed, batches, command), prompts)
        answer = partial(_read, engine, folder, plan, source, settings.spans, on_progress)
        return _complete(
            engine, folder, prompts, settings, answer=answer, judge=judge, on_progress=on_progress
        )


def price(
    engine: Engine | Cluster,
    settings: ExtractSettings,
    inputs: ExtractInputs,
    null: NullSettings | None = None,
) -> dict[str, Any]:
    """The most answers, tokens and disk that an extraction can take. Nothing is generated.

    With `null` also what the untrained models give that it is held against.
    """
    prompts = _prompts(engine.identity.model_id, settings, inputs)
    batches = engine.plan(prompts, settings.sampling)
    # Means in 16 bits and a norm of each layer, and the number of tokens that they are over.
    mean_bytes = engine.layers * (engine.identity.hidden_size * 2 + 4) + 8
    untrained = {}
    if null is not None:
        answers = null.seeds * len(null_prompts(prompts, null, settings.seed))
        longest = min(null.max_new_tokens, settings.sampling.max_new_tokens)
        untrained = {
            "untrained models": null.seeds,
            "their answers": answers,
            "their new tokens, at most": answers * longest,
        }
    return {
        "roles": len({p.role for p in prompts if p.is_role}),
        "traits": len({p.side.trait for p in prompts if p.side}),
        "answers": len(prompts),
        "new tokens, at most": len(prompts) * settings.sampling.max_new_tokens,
        "batches": len(batches),
        "disk for activations, bytes": len(prompts) * mean_bytes,
        **untrained,
    }


def null_prompts(prompts: Sequence[Prompt], null: NullSettings, seed: int) -> list[Prompt]:
    """The prompts of a run that its untrained models answer."""
    return sample_prompts(prompts, roles=null.roles, questions=null.questions, seed=seed)


def _complete(
    engine: Engine | Cluster,
    folder: RunFolder,
    prompts: Sequence[Prompt],
    settings: ExtractSettings,
    *,
    answer: Callable[[], None],
    judge: Judge | None,
    on_progress: OnProgress,
) -> Extraction:
    """The steps after the plan: answers, judgements, maps; none that is done is done twice."""
    judges = Judges.of(judge, engine)
    if is_mapped(folder, prompts, judges, mapping=settings.mapping, traits=settings.traits):
        folder.thin(settings.keep)  # a kill may have come between the maps and this
        return Extraction.of(folder.read())
    answer()
    if judge is not None:
        judge_rollouts(folder, judge, {prompt.id for prompt in prompts}, on_progress)
    elif judges.traits is not None:
        some = pairs_to_judge(prompts, settings.traits.judged_pairs)
        judge_rollouts(folder, judges.traits, some, on_progress)
    on_progress("mapping persona space", 0, 1)
    maps = make_maps(folder, prompts, judges, mapping=settings.mapping, traits=settings.traits)
    folder.thin(settings.keep)
    on_progress("mapping persona space", 1, 1)
    return maps


def _prompts(model: str, settings: ExtractSettings, inputs: ExtractInputs) -> list[Prompt]:
    """The prompts of a run.

    Raises TooFewSamplesError before the hours that answering takes where a map needs more.
    """
    name = spoken_name(model)
    first = make_default_prompts if settings.what == "traits" else make_prompts
    prompts = first(inputs.library, settings.prompts, model_name=name)
    if settings.what != "roles":
        prompts += make_trait_prompts(inputs.library, settings.prompts)
    roles = Tally(prompt.role for prompt in prompts if prompt.is_role)
    if settings.what != "traits" and len(roles) < FEWEST_ROLES:
        raise TooFewSamplesError(
            f"{inputs.source} has {len(roles)} roles, expected {FEWEST_ROLES} or more; add roles"
        )
    most = max(roles.values(), default=0)
    if settings.what != "traits" and most < settings.mapping.min_count:
        raise TooFewSamplesError(
            f"each role would answer {most} times, expected {settings.mapping.min_count} or more; "
            "ask more questions, or lower the minimum: --question-count, --min-count"
        )
    sides = Tally(prompt.role for prompt in prompts if prompt.side)
    if settings.what != "roles" and len(sides) < 2 * FEWEST_TRAITS:
        raise TooFewSamplesError(
            f"{inputs.source} has {len(sides) // 2} traits, expected {FEWEST_TRAITS} or more; add "
            "traits"
        )
    most = max(sides.values(), default=0)
    if settings.what != "roles" and most < settings.traits.min_pairs:
        raise TooFewSamplesError(
            f"each trait would have {most} pairs of answers, expected "
            f"{settings.traits.min_pairs} or more; ask more questions, or lower the minimum: "
            "--question-count, --min-pairs"
        )
    return prompts


def _recorded(settings: ExtractSettings, source: str) -> dict[str, Any]:
    """The settings of a plan, but for the spans: what the answers depend on."""
    recorded: dict[str, Any] = {**asdict(settings), "prompts_from": source}
    recorded["sampling"] = settings.sampling.settings
    for part in ("keep", "spans", "mapping", "traits"):  # maps are made again of the same rollouts
        recorded.pop(part)
    return recorded


def _recorded_spans(engine: Engine | Cluster, spans: Spans) -> dict[str, str]:
    """The spans as a setting of the plan.

    Left out where they could change nothing, so that plans written before there was a choice stay
    equal.
    """
    thinks = engine.template_facts().get("thinking", "off") != "off"
    return {"spans": spans} if thinks or spans != "answer" else {}


def _plan(
    engine: Engine | Cluster,
    recorded: dict[str, Any],
    seed: int,
    batches: tuple[tuple[int, ...], ...],
    command: str,
) -> RunPlan:
    return RunPlan(
        identity=engine.identity,
        settings=recorded,
        seed=seed,
        batches=batches,
        template=engine.template_facts(),
        command=command,
    )


def _answer(
    engine: Engine | Cluster,
    folder: RunFolder,
    plan: RunPlan,
    prompts: Sequence[Prompt],
    settings: ExtractSettings,
    on_progress: OnProgress,
) -> None:
    batches = [Batch(number, indices) for number, indices in enumerate(plan.batches)]
    done = folder.committed()
    counter = Counter("answering and recording", len(prompts), on_progress)
    counter.add(sum(len(b.indices) for b in batches if b.number in done))
    answer = engine.answer if isinstance(engine, Cluster) else partial(answer_prompts, engine)
    for answered in answer(
        prompts,
        batches,
        settings.sampling,
        seed=plan.seed,
        spans=settings.spans,
        done=done,
        on_rollout=lambda rollout: counter.add(1),
    ):
        folder.commit_batch(answered.number, answered.rollouts, answered.activations)


def _read(
    engine: Engine,
    folder: RunFolder,
    plan: RunPlan,
    source: Run,
    spans: Spans,
    on_progress: OnProgress,
) -> None:
    done = folder.committed()
    total = sum(len(batch) for batch in plan.batches)
    counter = Counter("reading rollouts", total, on_progress)
    rollouts = source.rollouts()
    is_same = source.identity.mismatch(engine.identity) is None
    for number, batch in enumerate(plan.batches):
        batch_rollouts = list(islice(rollouts, len(batch)))
        if number not in done:
            answered = read_rollouts(engine, batch_rollouts, number, by_token=is_same, spans=spans)
            folder.commit_batch(number, answered.rollouts, answered.activations)
        counter.add(len(batch))
