"""Keel's engine on vLLM: many requests at once, each under its own setting, recorded in the same
pass. Nothing is sampled or read twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from keel.engines.chat_template import ChatTemplate, Transcript
from keel.engines.protocol import Batch, Recording
from keel.engines.results import Calls, Completion, Divergence, Reading, Results, TurnRecord
from keel.engines.stopping import check_recordable, cut_at_stop
from keel.engines.vllm.asking import Asked, Queue, reading
from keel.engines.vllm.deployment import OFF, Deployment
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.recorded import packed, turn_of
from keel.engines.vllm.watch import watch
from keel.engines.vllm.workers import Workers
from keel.errors import ModelMismatchError, NotAppliedError, UsageError
from keel.seeds import seed_of
from keel.steering import Firing, Intervention, check_reached
from keel.types import Conversation, ModelIdentity, Prompt, Sampling

_BATCH = 512
"""Prompts that are committed together; vLLM schedules across them as it likes."""
_AT_ONCE = 256
"""Requests handed to vLLM at once where nothing is recorded."""


class VllmEngine:
    """A model under vLLM that answers prompts and reads conversations.

    `llm` is a `vllm.LLM` whose `additional_config` holds `deployment`. Not for several threads.
    """

    def __init__(
        self, llm: Any, deployment: Deployment, *, identity: ModelIdentity | None = None
    ) -> None:
        self.llm, self.deployment = llm, deployment
        self.tokenizer = llm.get_tokenizer()
        self.template = ChatTemplate(self.tokenizer)
        self._calls = Calls()
        config = llm.llm_engine.vllm_config.model_config
        self.layers = int(config.hf_text_config.num_hidden_layers)
        self.identity = _identity(config, self.layers, self.template, identity)
        self.workers = Workers(llm)
        self.queue = Queue(llm.llm_engine, deployment.recordings or _AT_ONCE, self.workers.discard)
        self._names = (f"s{number}" for number in itertools.count())
        watch(llm.llm_engine.engine_core)
        self._check_held()

    @property
    def batches_continuously(self) -> bool:
        """True: vLLM schedules."""
        return True

    @property
    def local_model(self) -> None:
        """None: the model runs in vLLM's own processes."""

    def template_facts(self) -> dict[str, str]:
        """What the chat template adds by itself (system prompt, date), in words for display."""
        return self.template.facts()

    def plan(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Batch]:
        """Batches in the order given. The same call plans the same."""
        starts = range(0, len(prompts), _BATCH)
        return [
            Batch(number, tuple(range(start, min(start + _BATCH, len(prompts)))))
            for number, start in enumerate(starts)
        ]

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        seed: int | Sequence[int],
        recording: Recording = Recording(),
        interventions: Sequence[Intervention] = (),
        on_text: Callable[[int, str], None] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Results[Completion]:
        """Answer prompts, each completion as it finishes. Each prompt's seed decides its draws."""
        completions = self._completions(
            prompts, sampling, seed, recording, interventions, on_text, on_step
        )
        return self._calls.begin(completions, (one.layer for one in interventions))

    def _completions(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int | Sequence[int],
        recording: Recording,
        interventions: Sequence[Intervention],
        on_text: Callable[[int, str], None] | None,
        on_step: Callable[[], None] | None,
    ) -> Generator[Completion, None, Firing | None]:
        records = recording.means or bool(recording.probes)
        check_recordable(sampling, means=recording.means)
        seeds = [seed] * len(prompts) if isinstance(seed, int) else seed

        def asked(index: int, prompt: Prompt) -> Asked:
            ids = self.template.prompt_ids(prompt.conversation)
            # vLLM ends an answer before its last token has passed through the model: what is
            # recorded runs on instead, and is cut afterwards.
            stop = () if records else sampling.stop
            parameters = self._sampling(
                sampling, seed_of(seeds[index], prompt.id, separator="/"), stop
            )
            spans = (len(ids), -1) if records else ()
            return Asked(index, ids, parameters, spans, is_summed=recording.means)

        with self._probing(recording), self._under(interventions) as setting:
            for one, output in self.queue.run(
                map(asked, itertools.count(), prompts), setting.name, on_text, on_step
            ):
                yield self._completion(one, output, recording, sampling)
            return self._firing(setting)

    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        recording: Recording,
        interventions: Sequence[Intervention] = (),
    ) -> Results[Reading]:
        """Read given conversations in one forward pass each, in any order; nothing is sampled."""
        readings = self._readings(conversations, recording, interventions)
        return self._calls.begin(readings, (one.layer for one in interventions))

    def _readings(
        self,
        conversations: Sequence[Conversation],
        recording: Recording,
        interventions: Sequence[Intervention],
    ) -> Generator[Reading, None, Firing | None]:
        transcripts = [self.template.transcript(c) for c in conversations]
        asked = [
            Asked(
                index,
                list(transcript.token_ids),
                reading(),
                tuple(n for turn in transcript.turns for n in (turn.start, turn.stop)),
                is_summed=recording.means,
                is_scored=recording.log_likelihood,
            )
            for index, transcript in enumerate(transcripts)
        ]
        silent = [one.index for one in asked if not one.spans]
        yield from (Reading(index, ()) for index in silent)
        with self._probing(recording), self._under(interventions) as setting:
            for one, _ in self.queue.run([a for a in asked if a.spans], setting.name):
                scores = (
                    self.workers.ask_last("likelihood", one.key)
                    if recording.log_likelihood
                    else None
                )
                yield self._reading(one, transcripts[one.index], recording, scores)
            return self._firing(setting)

    def divergence(
        self,
        conversations: Sequence[Conversation],
        settings: Sequence[Sequence[Intervention]],
    ) -> Iterator[Divergence]:
        """KL(unsteered ‖ steered) of next-token distributions, for each setting."""
        self._calls.close()
        for index, conversation in enumerate(conversations):
            transcript = self.template.transcript(conversation)
            spans = tuple(n for turn in transcript.turns for n in (turn.start, turn.stop))
            if not spans:
                continue
            ids = list(transcript.token_ids)
            with self._scored(Asked(index, ids, reading(), spans, is_scored=True), ()) as plain:
                for number, interventions in enumerate(settings):
                    asked = Asked(index, ids, reading(), spans, is_scored=True)
                    with self._scored(asked, interventions) as held:
                        kl_N = self.workers.ask_last("divergence", plain, held)["kl"]
                    if len(kl_N):
                        yield Divergence(index, number, float(kl_N.mean()), len(kl_N))

    def close(self) -> None:
        """Break off the call that is open, stop vLLM and give its memory back."""
        self._calls.close()
        self.llm.llm_engine.engine_core.shutdown()

    @contextmanager
    def _scored(self, asked: Asked, interventions: Sequence[Intervention]) -> Iterator[str]:
        """The key under which predictions of a transcript are kept while the context lasts."""
        try:
            with self._under(interventions) as setting:
                for _ in self.queue.run([asked], setting.name):
                    pass
                check_reached(self._firing(setting), setting.layers)
            yield asked.key
        finally:
            self.workers.discard([asked.key])

    @contextmanager
    def _under(self, interventions: Sequence[Intervention]) -> Iterator[PackedInterventions]:
        """A setting of these interventions for as long as the context lasts."""
        if not interventions:
            yield PackedInterventions.none(OFF)
            return
        name = next(self._names)
        setting = PackedInterventions.of(name, interventions)
        self.workers.tell("register", name, setting.to_bytes())
        try:
            yield setting
        finally:
            self.workers.tell("register", name, b"")

    def _firing(self, setting: PackedInterventions) -> Firing | None:
        """How often the setting moved a token; None if it is of no intervention."""
        return self.workers.firing(setting.name, setting.layers) if setting.layers else None

    @contextmanager
    def _probing(self, recording: Recording) -> Iterator[None]:
        if (recording.means or recording.probes) and not self.deployment.recordings:
            raise UsageError("this engine was started without recording; start it with recordings")
        if recording.probes:
            self.workers.tell("set_probes", packed(recording.probes))
        try:
            yield
        finally:
            if recording.probes:
                self.workers.tell("set_probes", b"")

    def _completion(
        self, one: Asked, output: Any, recording: Recording, sampling: Sampling
    ) -> Completion:
        limit = sampling.max_new_tokens
        sampled = tuple(output.outputs[0].token_ids)
        ends = self._ends
        content = tuple(itertools.takewhile(lambda token: token not in ends, sampled))[:limit]
        finish: Literal["stop", "length"] = (
            "stop" if len(content) < len(sampled) and len(content) < limit else "length"
        )
        activations = projections = None
        if one.spans:
            held = self.workers.collect(one.key)
            activations, projections = turn_of(held, one.key, 0, len(content), recording)
        answer = cut_at_stop(self.tokenizer, content, sampling.stop)
        if projections is not None:
            projections = projections[: len(answer.token_ids)]
        finish = "stop" if answer.is_stopped else finish
        return Completion(
            one.index, answer.text, answer.token_ids, finish, activations, projections
        )

    def _reading(
        self,
        one: Asked,
        transcript: Transcript,
        recording: Recording,
        scores: Mapping[str, Tensor] | None,
    ) -> Reading:
        held = self.workers.collect(one.key)
        lengths = [turn.stop - turn.start for turn in transcript.turns]
        likelihoods = torch.split(scores["log_likelihood"], lengths) if scores is not None else None
        turns = []
        for number, turn in enumerate(transcript.turns):
            means, heights = turn_of(held, one.key, number, lengths[number], recording)
            turns.append(
                TurnRecord(
                    turn.turn,
                    transcript.token_ids[turn.start : turn.stop],
                    means,
                    heights,
                    likelihoods[number] if likelihoods is not None else None,
                )
            )
        return Reading(one.index, tuple(turns))

    @property
    def _ends(self) -> frozenset[int]:
        given = self.llm.get_default_sampling_params().stop_token_ids or []
        return self.template.end_tokens(given)

    def _sampling(self, sampling: Sampling, seed: int, stop: Sequence[str]) -> Any:
        from vllm import SamplingParams

        # One more than wanted: the last content token then passes through the model, too.
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens + 1,
            stop=list(stop),
            stop_token_ids=sorted(self._ends),
            seed=seed,
        )

    def _check_held(self) -> None:
        """Raises NotAppliedError where a worker holds nothing."""
        wanted = self.deployment.layers
        named = set(range(self.layers) if wanted is None else wanted)
        missing = named - self.workers.steered_layers()
        if missing:
            raise NotAppliedError(f"no worker holds layers {sorted(missing)}; the engine is no use")


def _identity(
    config: Any, layers: int, template: ChatTemplate, given: ModelIdentity | None
) -> ModelIdentity:
    own = ModelIdentity(
        model_id=given.model_id if given is not None else str(config.model),
        layers=layers,
        hidden_size=int(config.get_hidden_size()),
        revision=given.revision if given is not None else "",
        weights_hash=given.weights_hash if given is not None else "",
        template_hash=template.hash,
        dtype=str(config.dtype).removeprefix("torch."),
    )
    problem = given.mismatch(own) if given is not None else None
    if problem is not None:
        raise ModelMismatchError(f"the loaded model is not the one named: {problem}")
    return own
