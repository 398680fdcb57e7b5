"""Keel's engine on vLLM, and how it is started.

Many requests run at once, each under its own setting, recorded in the same pass. Nothing is sampled
or read twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from keel.engines.catalogue import adapter_base, locate, weights_fingerprint
from keel.engines.chat_template import ChatTemplate
from keel.engines.context import check_context
from keel.engines.decoding import check_recordable, cut_at_stop
from keel.engines.protocol import Batch, Recording
from keel.engines.rendered_tokens import Transcript
from keel.engines.results import Calls, Completion, Divergence, Reading, TurnRecord, engine_call
from keel.engines.vllm.deployment import OFF, Deployment
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.plugin import check_version, register
from keel.engines.vllm.processes import Workers, watch
from keel.engines.vllm.recordings import packed
from keel.engines.vllm.requests import RecordedRequest, RequestQueue, reading_parameters
from keel.errors import KeelError, ModelLoadError, NotAppliedError, UsageError
from keel.seeds import seed_of
from keel.settings import Spans, VllmSettings
from keel.steering import Firing, Intervention, Probe, check_reached
from keel.types import Activations, Conversation, ModelIdentity, Prompt, Sampling

_BATCH = 512
"""Prompts that are committed together; vLLM schedules across them as it likes."""
_AT_ONCE = 256
"""Requests handed to vLLM at once where nothing is recorded."""
EAGER_ON_CPU = {"compilation_config": {"custom_ops": ["-rotary_embedding"]}}
"""vLLM 0.32's own kernel for rotary positions on a CPU, which no compiled graph uses, turns queries
of three axes by the wrong angles (LFM2, DeepSeek V2 and V3): its PyTorch code takes its stead."""


def load_engine(model: str, settings: VllmSettings = VllmSettings()) -> VllmEngine:
    """A vLLM engine for an alias (`smollm2`), a hub id or a local folder.

    Raises MissingExtraError without vLLM or with a version that was not tested, ModelLoadError
    when vLLM cannot load the model, NotAppliedError when Keel does not reach it.
    """
    check_version()
    from vllm import LLM

    register()
    where = locate(model)
    if (base := adapter_base(where)) is not None:
        raise ModelLoadError(
            f"{model} holds a LoRA adapter of {base}, and vLLM runs whole models; merge the two "
            "(peft: merge_and_unload(), then save_pretrained) and give that folder"
        )
    deployment = Deployment(
        layers=settings.layers,
        settings=settings.settings,
        steps=settings.steps,
        recordings=settings.recordings,
        probes=settings.probes,
    )
    try:
        llm = LLM(model=where, **_arguments(settings, deployment))
    except KeelError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        raise ModelLoadError(f"vLLM cannot load {model!r}: {reason_of(error)}") from error
    except RuntimeError as error:
        raise NotAppliedError(f"vLLM did not start with {model!r}: {reason_of(error)}") from error
    engine, folder = VllmEngine(llm, deployment), Path(where)
    engine.identity = replace(
        engine.identity,
        model_id=model,
        revision=str(llm.llm_engine.vllm_config.model_config.revision or ""),
        weights_hash=weights_fingerprint(folder) if folder.is_dir() else "",
    )
    return engine


def _arguments(settings: VllmSettings, deployment: Deployment) -> dict[str, Any]:
    if settings.tensor_parallel_size < 1:
        raise UsageError(f"tensor_parallel_size is {settings.tensor_parallel_size}, expected 1+")
    from vllm.platforms import current_platform

    is_on_cpu = bool(current_platform.is_cpu())
    return {
        "dtype": settings.dtype,
        "revision": settings.revision,
        "trust_remote_code": settings.trust_remote_code,
        "max_model_len": settings.max_model_len,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": settings.eager,
        "gpu_memory_utilization": settings.memory_share or (0.4 if is_on_cpu else 0.9),
        "disable_log_stats": True,
        **(EAGER_ON_CPU if is_on_cpu and settings.eager else {}),
        **settings.arguments,
        "additional_config": {
            **settings.arguments.get("additional_config", {}),
            "keel": deployment.to_config(),
        },
    }


def reason_of(error: Exception) -> str:
    """The line of an error that says why; its class, where it says nothing."""
    headline, *rest = str(error).strip().splitlines() or [type(error).__name__]
    if "validation error" in headline and rest:  # pydantic counts first, and says what behind it
        headline = rest[0].partition(" [type=")[0].strip().removeprefix("Value error, ")
    if "failed to be inspected" in headline and find_spec("torchvision") is None:
        return (
            f"{headline.partition(' Please')[0]} Classes that take images need torchvision, which "
            f"is not installed: install its build for torch {torch.__version__}, or use the "
            "transformers engine"
        )
    return headline[:300]


class VllmEngine:
    """A model under vLLM that answers prompts and reads conversations.

    `llm` is a `vllm.LLM` whose `additional_config` holds `deployment`. Not for several threads.
    Raises NotAppliedError where a layer that was to be steered is in no worker.
    """

    def __init__(self, llm: Any, deployment: Deployment) -> None:
        self.llm, self.deployment = llm, deployment
        self.tokenizer = llm.get_tokenizer()
        self.template = ChatTemplate(self.tokenizer)
        self.engine_calls = Calls()
        config = llm.llm_engine.vllm_config.model_config
        self.layers = int(config.get_total_num_hidden_layers())
        # The last token of an answer runs, too, and vLLM ends an answer where no token more fits.
        self.context_tokens = int(config.max_model_len) - 1
        self.identity = ModelIdentity(
            model_id=str(config.model),
            layers=self.layers,
            hidden_size=int(config.get_hidden_size()),
            template_hash=self.template.hash,
            dtype=str(config.dtype).removeprefix("torch."),
        )
        self.workers = Workers(llm)
        self.queue = RequestQueue(
            llm.llm_engine, deployment.recordings or _AT_ONCE, self.workers.discard
        )
        self._names = (f"s{number}" for number in itertools.count())
        watch(llm.llm_engine.engine_core)
        wanted = set(range(self.layers) if deployment.layers is None else deployment.layers)
        missing = wanted - self.workers.steered_layers()
        if missing:
            raise NotAppliedError(f"no worker holds layers {sorted(missing)}; the engine is no use")

    @property
    def batches_continuously(self) -> bool:
        """True: vLLM schedules requests by itself."""
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

    @engine_call
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
    ) -> Generator[Completion, None, Firing | None]:
        """Answer prompts, each completion as it finishes. Each prompt's seed decides its draws."""
        records = recording.means or bool(recording.probes)
        check_recordable(sampling, means=recording.means)
        seeds = [seed] * len(prompts) if isinstance(seed, int) else seed

        def request_for(index: int, prompt: Prompt) -> RecordedRequest:
            ids = self.template.prompt_ids(prompt.conversation)
            lengths = [(prompt.id, len(ids))]
            check_context(lengths, self.context_tokens, new_tokens=sampling.max_new_tokens)
            # vLLM ends an answer before its last token has passed through the model: what is
            # recorded runs on instead, and is cut afterwards.
            stop = () if records else sampling.stop
            parameters = self._sampling(
                sampling, seed_of(seeds[index], prompt.id, separator="/"), stop
            )
            spans = (len(ids), -1) if records else ()
            if records and recording.prompt:
                spans = (len(ids) - 1, len(ids), *spans)
            return RecordedRequest(index, ids, parameters, spans, is_summed=recording.means)

        with self._probing(recording), self._under(interventions) as setting:
            requests = itertools.starmap(request_for, enumerate(prompts))
            for finished in self.queue.run(requests, setting.name, on_text, on_step):
                recorded = self.workers.collect([r.key for r, _ in finished if r.key])
                for request, output in finished:
                    yield self._completion(request, output, recorded, recording, sampling)
            return self._firing(setting)

    @engine_call
    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        recording: Recording,
        interventions: Sequence[Intervention] = (),
    ) -> Generator[Reading, None, Firing | None]:
        """Read given conversations in one forward pass each, in any order; nothing is sampled."""
        if recording.prompt and interventions:
            # Recorded tokens of a given conversation are taken for sampled ones: a floor on
            # generated tokens would act on the token before a turn, and count it.
            raise UsageError(
                "the tokens before given turns are recorded without interventions only on vLLM; "
                "leave out one of the two, or use the transformers engine"
            )
        transcripts = [self._transcript(c, recording.spans) for c in conversations]
        requests = [
            _reading_request(
                index,
                transcript,
                is_summed=recording.means,
                is_scored=recording.log_likelihood,
                has_prompts=recording.prompt,
            )
            for index, transcript in enumerate(transcripts)
        ]
        yield from (Reading(request.index, ()) for request in requests if not request.spans)
        with self._probing(recording), self._under(interventions) as setting:
            spoken = [request for request in requests if request.spans]
            for finished in self.queue.run(spoken, setting.name):
                keys = [request.key for request, _ in finished]
                scores = (
                    [self.workers.call_last_stage("likelihood", key) for key in keys]
                    if recording.log_likelihood
                    else [None] * len(keys)
                )
                recorded = self.workers.collect(keys)
                for (request, _), score in zip(finished, scores, strict=True):
                    transcript = transcripts[request.index]
                    yield _reading(request, transcript, recorded, recording, score)
            return self._firing(setting)

    def divergence(
        self,
        conversations: Sequence[Conversation],
        settings: Sequence[Sequence[Intervention]],
    ) -> Iterator[Divergence]:
        """KL(unsteered ‖ steered) of next-token distributions, for each setting."""
        self.engine_calls.close()
        for index, conversation in enumerate(conversations):
            transcript = self._transcript(conversation)
            if not transcript.turns:
                continue
            with self._scored(_reading_request(index, transcript, is_scored=True), ()) as plain:
                for number, interventions in enumerate(settings):
                    request = _reading_request(index, transcript, is_scored=True)
                    with self._scored(request, interventions) as held:
                        kl_N = self.workers.call_last_stage("divergence", plain, held)["kl"]
                    if len(kl_N):
                        yield Divergence(index, number, float(kl_N.mean()), len(kl_N))

    def close(self) -> None:
        """Break off the call that is open, stop vLLM and give its memory back."""
        self.engine_calls.close()
        self.llm.llm_engine.engine_core.shutdown()
        self.workers.sums.close()

    def _transcript(self, conversation: Conversation, spans: Spans = "answer") -> Transcript:
        """A conversation's tokens. Raises ContextLengthError where they do not fit."""
        transcript = self.template.transcript(conversation, spans)
        check_context([(conversation.id, len(transcript.token_ids))], self.context_tokens)
        return transcript

    @contextmanager
    def _scored(
        self, request: RecordedRequest, interventions: Sequence[Intervention]
    ) -> Iterator[str]:
        """Reads a transcript; its predictions are kept under the key while the context lasts."""
        try:
            with self._under(interventions) as setting:
                for _ in self.queue.run([request], setting.name):
                    pass
                check_reached(self._firing(setting), setting.layers)
            yield request.key
        finally:
            self.workers.discard([request.key])

    @contextmanager
    def _under(self, interventions: Sequence[Intervention]) -> Iterator[PackedInterventions]:
        """Registers the interventions as a setting for as long as the context lasts."""
        if not interventions:
            yield PackedInterventions.none(OFF)
            return
        name = next(self._names)
        setting = PackedInterventions.of(name, interventions)
        self.workers.call("register", name, setting.to_bytes())
        try:
            yield setting
        finally:
            self.workers.call("register", name, b"")

    def _firing(self, setting: PackedInterventions) -> Firing | None:
        """How often the setting moved a token; None if it is of no intervention."""
        return self.workers.firing(setting.name, setting.layers) if setting.layers else None

    @contextmanager
    def _probing(self, recording: Recording) -> Iterator[None]:
        if (recording.means or recording.probes) and not self.deployment.recordings:
            raise UsageError("this engine was started without recording; start it with recordings")
        if recording.probes:
            self.workers.call("set_probes", packed_probes(recording.probes))
        try:
            yield
        finally:
            if recording.probes:
                self.workers.call("set_probes", b"")

    def _completion(
        self,
        request: RecordedRequest,
        output: Any,
        recorded: Mapping[str, Tensor],
        recording: Recording,
        sampling: Sampling,
    ) -> Completion:
        limit = sampling.max_new_tokens
        sampled = tuple(output.outputs[0].token_ids)
        ends = self._ends
        content = tuple(itertools.takewhile(lambda token: token not in ends, sampled))[:limit]
        finish: Literal["stop", "length"] = (
            "stop" if len(content) < len(sampled) and len(content) < limit else "length"
        )
        activations = projections = prompt_K = None
        if request.spans:
            answered = 1 if recording.prompt else 0
            if recording.prompt:
                _, prompt_1K = _span_record(recorded, f"{request.key}/0", 1, recording)
                prompt_K = None if prompt_1K is None else prompt_1K[0]
            activations, projections = _span_record(
                recorded, f"{request.key}/{answered}", len(content), recording
            )
        answer = cut_at_stop(self.tokenizer, content, sampling.stop)
        if projections is not None:
            projections = projections[: len(answer.token_ids)]
        finish = "stop" if answer.is_stopped else finish
        return Completion(
            request.index,
            answer.text,
            answer.token_ids,
            finish,
            activations,
            projections,
            prompt_K,
        )

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


def packed_probes(probes: Sequence[Probe]) -> bytes:
    """Probes as workers take them: see `Recordings.set_probes`."""
    return packed(
        {
            "layers": torch.tensor([probe.layer for probe in probes]),
            "directions": torch.stack([probe.direction.float().cpu() for probe in probes]),
        }
    )


def _reading_request(
    index: int,
    transcript: Transcript,
    *,
    is_summed: bool = False,
    is_scored: bool = False,
    has_prompts: bool = False,
) -> RecordedRequest:
    """A request that reads a transcript and records its turns.

    With `has_prompts`, before each a span of the one token that stands before it.
    """
    return RecordedRequest(
        index,
        list(transcript.token_ids),
        reading_parameters(),
        tuple(
            n
            for turn in transcript.turns
            for n in (*((turn.start - 1, turn.start) if has_prompts else ()), turn.start, turn.stop)
        ),
        is_summed=is_summed,
        is_scored=is_scored,
    )


def _reading(
    request: RecordedRequest,
    transcript: Transcript,
    recorded: Mapping[str, Tensor],
    recording: Recording,
    scores: Mapping[str, Tensor] | None,
) -> Reading:
    before = 1 if recording.prompt else 0
    lengths = [turn.stop - turn.start for turn in transcript.turns]
    # Nothing predicts a conversation's first token.
    firsts = [(min(turn.start - 1, 1),) * before for turn in transcript.turns]
    spans = [n for first, length in zip(firsts, lengths, strict=True) for n in (*first, length)]
    likelihoods = torch.split(scores["log_likelihood"], spans) if scores is not None else None
    turns = []
    for number, turn in enumerate(transcript.turns):
        span, prompt_1K = number * (1 + before) + before, None
        activations, projections = _span_record(
            recorded, f"{request.key}/{span}", lengths[number], recording
        )
        if recording.prompt:
            _, prompt_1K = _span_record(recorded, f"{request.key}/{span - 1}", 1, recording)
        turns.append(
            TurnRecord(
                turn.turn,
                transcript.token_ids[turn.start : turn.stop],
                activations,
                projections,
                likelihoods[span] if likelihoods is not None else None,
                None if prompt_1K is None else prompt_1K[0],
            )
        )
    return Reading(request.index, tuple(turns))


def _span_record(
    recorded: Mapping[str, Tensor], name: str, tokens: int, recording: Recording
) -> tuple[Activations | None, Float[Tensor, "token probe"] | None]:
    """Means and projections over one recorded span.

    Raises NotAppliedError where not all of its tokens were recorded.
    """
    seen = int(recorded[f"{name}/tokens"])
    if seen != tokens:
        raise NotAppliedError(f"{seen} of {tokens} tokens were recorded; do not trust this answer")
    activations = projections = None
    if recording.means and tokens:
        sums_LD, norms_L = recorded[f"{name}/sums"], recorded[f"{name}/norms"]
        activations = Activations(sums_LD / tokens, norms_L / tokens, tokens)
    if recording.probes:
        columns = len(recording.probes)
        projections = recorded.get(f"{name}/projections", torch.zeros(0, columns))[:, :columns]
    return activations, projections
