"""The null of a run's AUC: models of its shape with random weights, extracted on its prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from keel.engines import Engine, check_untrained, open_untrained
from keel.errors import StaleArtifactError
from keel.pipeline.axis import check_same_model
from keel.pipeline.extracting import extract_prompts, null_prompts, reread
from keel.pipeline.maps import Extraction
from keel.pipeline.progress import OnProgress, silent
from keel.settings import ExtractSettings, MapSettings, NullSettings, PromptSettings, Sampling
from keel.store import Run, RunFolder
from keel.types import Prompt, UntrainedModel, UntrainedNull


def measure_untrained(
    engine: Engine,
    folder: RunFolder,
    settings: NullSettings = NullSettings(),
    *,
    on_progress: OnProgress = silent,
) -> UntrainedNull:
    """What models of the run's shape with random weights reach on its prompts, kept in the run.

    They answer in some of its roles, spread over all, to some of its questions, and every answer
    counts; where the run read another's answers, they read them all. An interrupted call goes on
    where it stopped; further seeds are added to those that are there. Raises UsageError for an
    engine that can make no such model, ModelMismatchError where it runs another than the run's.
    """
    check_untrained(engine)
    run = folder.read()
    check_same_model(engine, run.axis)
    with folder.lock():
        job = _Job.of(run, settings)
        null = job.null
        if run.untrained is not None and replace(run.untrained, models=()) == null:
            null = run.untrained
        for seed in range(settings.seeds):
            if seed in {model.seed for model in null.models}:
                continue
            model = job.measure(open_untrained(engine, seed), folder, seed, on_progress)
            models = sorted([*null.models, model], key=lambda model: model.seed)
            null = replace(null, models=tuple(models))
            folder.save_untrained(null)
        folder.clear_untrained_work()
        return null


@dataclass(frozen=True)
class _Job:
    """What every untrained model of a run does."""

    run: Run
    settings: ExtractSettings
    prompts: tuple[Prompt, ...]
    """Empty where the run's answers are read."""
    null: UntrainedNull
    """Of no model yet."""

    @classmethod
    def of(cls, run: Run, settings: NullSettings) -> _Job:
        """Raises UsageError where the run has no roles."""
        is_read = "rollouts_from" in run.plan.settings
        every = [rollout.prompt for rollout in run.rollouts() if rollout.prompt.side is None]
        prompts = every if is_read else null_prompts(every, settings, run.plan.seed)
        written = run.plan.settings.get("sampling", {})
        sampling = Sampling(**{**written, "stop": tuple(written.get("stop", ()))})
        longest = min(sampling.max_new_tokens, settings.max_new_tokens)
        extraction = ExtractSettings(
            prompts=PromptSettings(),
            sampling=replace(sampling, max_new_tokens=longest),
            mapping=MapSettings(min_count=1, seed=run.plan.seed),
            keep="none",
            seed=run.plan.seed,
        )
        null = UntrainedNull(
            models=(),
            roles=len({prompt.role for prompt in prompts if prompt.is_role}),
            questions=len({prompt.question_index for prompt in prompts}),
            answers=len(prompts),
            max_new_tokens=None if is_read else longest,
        )
        return cls(run, extraction, () if is_read else tuple(prompts), null)

    def measure(
        self, untrained: Engine, folder: RunFolder, seed: int, on_progress: OnProgress
    ) -> UntrainedModel:
        """Extract one model in a folder of its own inside the run's; its quality."""
        work = folder.untrained_work(seed)

        def extracted() -> Extraction:
            def progress(stage: str, done: int, total: int) -> None:
                on_progress(f"untrained {seed}: {stage}", done, total)

            if not self.prompts:
                return reread(untrained, work, self.run, self.settings, on_progress=progress)
            return extract_prompts(
                untrained,
                work,
                self.settings,
                prompts=self.prompts,
                source="a run, for its null",
                on_progress=progress,
            )

        try:
            made = extracted()
        except StaleArtifactError:  # begun with other settings, before an interruption
            work.clear()
            made = extracted()
        assert made.persona_map is not None  # the run has roles, hence so have these prompts
        at = made.persona_map.quality[made.persona_map.axis.layer]
        return UntrainedModel(
            seed=seed,
            layer=at.layer,
            auc=float(at.auc.value),
            d_prime=float(at.d_prime.value),
            split_half_questions=at.split_half_questions,
            split_half_roles=at.split_half_roles,
            cos_pc1=float(at.cos_pc1.value),
        )
