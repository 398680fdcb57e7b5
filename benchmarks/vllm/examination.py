"""One tiny model under Keel in both engines, and in vLLM without Keel: what each of them measures.

Each function below runs in a process of its own; what it takes and gives are plain values.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keel.engines.vllm.engine import EAGER_ON_CPU, reason_of
from keel.errors import KeelError, ModelLoadError
from keel.types import Conversation, Floor, Message, Prompt, Sampling

GREEDY = Sampling(max_new_tokens=12, temperature=0)
TEXTS = ("hello there", "a", "what is the sea like", "go on, and tell me of the ship")
TALK = Conversation(
    (
        Message("user", "hello"),
        Message("assistant", "I am the wide sea, and I am calm."),
        Message("user", "and who are you to me?"),
        Message("assistant", "A harbour, one that is calm and deep."),
    )
)
_UNDER = 0.75
"""Share of a layer's tokens that the floors are above."""
_LENGTH = 256

# vLLM's attention on a CPU takes heads of 32 or more, and latent attention of these sizes alone.
_WIDENING = 2
_CHANGES = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_head_dim": 96, "index_head_dim": 128}
_PARTICULARS: dict[str, dict[str, Any]] = {
    # Windows of Cohere's models are a token wider in vLLM than in transformers.
    "cohere2": {"sliding_window": _LENGTH},
    "cohere2_moe": {"sliding_window": _LENGTH},
    "axk1": {"head_dim": 64},
    "deepseek_v3": {"head_dim": 64},
    "gemma4_text": {"enable_moe_block": True},
    "lfm2": {"full_attn_idxs": [1, 3], "layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"head_dim": 64},
    # vLLM weighs what experts are given only where each token goes to one.
    "llama4_text": {"attention_chunk_size": _LENGTH, "num_experts_per_tok": 1},
    # The gate's norm goes over each group in vLLM, over all in transformers.
    "mamba2": {"n_groups": 1},
    # vLLM's experts without a gate need a GPU.
    "nemotron_h": {"layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"]},
    # vLLM's linear attention takes heads of these sizes alone.
    "qwen3_next": {"linear_key_head_dim": 128, "linear_value_head_dim": 128},
    "youtu": {"head_dim": 64},
}
_PUBLISHED: dict[str, dict[str, Any]] = {
    "afmoe": {"route_norm": True, "score_func": "sigmoid", "n_group": 1, "topk_group": 1},
    "deepseek_v3": {"topk_method": "noaux_tc"},
    "glm4_moe": {"head_dim": 32},
    "glm4_moe_lite": {"first_k_dense_replace": 1},
    "hy_v3": {"expert_hidden_dim": 256, "first_k_dense_replace": 1, "route_norm": True},
    "lfm2": {"block_dim": 128, "conv_dim": 128},
    "lfm2_moe": {"block_dim": 128, "conv_dim": 128},
    "minimax_m2": {"rotary_dim": 16, "scoring_func": "sigmoid", "use_routing_bias": True},
}
"""Settings that vLLM reads, of published checkpoints, and transformers' configs do not have."""


@dataclass(frozen=True)
class Failure:
    """Why there is nothing measured."""

    text: str
    is_refusal: bool
    """Whether Keel said that it does not hold the model."""


@dataclass(frozen=True)
class Given:
    """A floor, as plain values."""

    layer: int
    direction_D: NDArray[np.float32]
    value: float

    def floor(self) -> Floor:
        """As the engines take it."""
        import torch

        return Floor(self.layer, torch.from_numpy(self.direction_D), self.value)


@dataclass(frozen=True)
class Measured:
    """What one engine gave under one setting."""

    answers: tuple[tuple[int, ...], ...]
    """Greedy tokens, by prompt."""
    log_likelihood_T: NDArray[np.float32]
    """Of a given conversation's answers, in nats."""
    means_SLD: NDArray[np.float32] | None = None
    """Means of each layer over the tokens of an answer: those sampled, then those given. None
    where nothing is recorded."""
    fired: Mapping[int, float] | None = None
    """Share of the given tokens that were moved, by layer."""


@dataclass(frozen=True)
class Held:
    """What Keel's engine measured."""

    uncapped: Measured
    capped: Measured
    floors: tuple[Given, ...]
    runs_as: str
    """Class of the model that the engine runs."""


@dataclass(frozen=True)
class Tolerance:
    """How far two engines may be apart on the same weights."""

    means: float = 0.01
    """In lengths of a mean. In float32 most are 1e-6 apart; kernels of some models are less exact
    in vLLM (Gemma 2, Apertus: 1e-3), and what is taken for another stream is 0.7 away."""
    log_likelihood: float = 0.02
    """Mean distance in nats a token."""
    has_same_tokens: bool = True


@dataclass(frozen=True)
class Differences:
    """How two measurements differ."""

    gap: float
    """Largest distance between means of a layer, in lengths of the mean."""
    log_likelihood: float
    """Mean distance in nats a token."""
    text: str
    """What is beyond the tolerance; empty where nothing is."""


def attempted(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of this module gives, or `Failure`."""
    warnings.simplefilter("ignore")
    try:
        return function(*arguments)
    except Exception as error:
        is_refusal = isinstance(error, KeelError) and not isinstance(error, ModelLoadError)
        return Failure(f"{type(error).__name__}: {reason_of(error)}", is_refusal)


def build(model_type: str, folder: str) -> str:
    """Save a tiny random model of a type with its tokenizer; gives its architecture."""
    from transformers.utils import logging

    from keel.testing import shrunken_model, tiny_tokenizer

    logging.set_verbosity_error()
    changes = {**_CHANGES, **_PARTICULARS.get(model_type, {})}
    model = shrunken_model(model_type, widening=_WIDENING, changes=changes)
    for name, value in _PUBLISHED.get(model_type, {}).items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return type(model).__name__


def by_transformers(folder: str, dtype: str, floors: Sequence[Given] = ()) -> Held:
    """What Keel's transformers engine measures, under these floors or its own."""
    from keel.engines import open_engine

    engine = open_engine(folder, dtype=dtype, device="cpu")
    return _held(engine, floors or _floors(engine), type(engine.local_model.model).__name__)


def by_vllm(folder: str, dtype: str, floors: Sequence[Given]) -> Held:
    """What Keel's vLLM engine measures under floors."""
    from keel.engines import open_engine

    engine = open_engine(
        folder, "vllm", dtype=dtype, eager=True, max_model_len=_LENGTH, recordings=8, probes=0
    )
    core = engine.llm.llm_engine.engine_core.engine_core
    return _held(
        engine, floors, type(core.model_executor.driver_worker.worker.get_model()).__name__
    )


def by_vllm_alone(folder: str, dtype: str) -> Measured:
    """What vLLM says without Keel."""
    from vllm import LLM, SamplingParams

    from keel.engines.chat_template import ChatTemplate

    llm = LLM(
        model=folder,
        dtype=dtype,
        enforce_eager=True,
        max_model_len=_LENGTH,
        gpu_memory_utilization=0.4,
        disable_log_stats=True,
        **EAGER_ON_CPU,
    )
    template = ChatTemplate(llm.get_tokenizer())
    ends = template.end_tokens(llm.get_default_sampling_params().stop_token_ids or [])
    parameters = SamplingParams(
        temperature=0, max_tokens=GREEDY.max_new_tokens, stop_token_ids=sorted(ends)
    )
    given = [{"prompt_token_ids": template.prompt_ids(one.conversation)} for one in _prompts()]
    sampled = [
        tuple(made.outputs[0].token_ids) for made in llm.generate(given, parameters, use_tqdm=False)
    ]
    transcript = template.transcript(TALK)
    scoring = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    whole = {"prompt_token_ids": list(transcript.token_ids)}
    (read,) = llm.generate([whole], scoring, use_tqdm=False)
    scores = [
        read.prompt_logprobs[n][transcript.token_ids[n]].logprob
        for turn in transcript.turns
        for n in range(turn.start, turn.stop)
    ]
    answers = tuple(tuple(token for token in answer if token not in ends) for answer in sampled)
    return Measured(answers, np.array(scores, dtype=np.float32))


def compared(ours: Measured, theirs: Measured, tolerance: Tolerance) -> Differences:
    """How our measurement differs from theirs."""
    same = [a == b for a, b in zip(ours.answers, theirs.answers, strict=True)]
    likelihood = float(np.abs(ours.log_likelihood_T - theirs.log_likelihood_T).mean())
    gap = 0.0
    if ours.means_SLD is not None and theirs.means_SLD is not None:
        rows = np.array([*same, *[True] * (len(ours.means_SLD) - len(same))])
        apart_SL = np.linalg.norm(ours.means_SLD - theirs.means_SLD, axis=-1)[rows]
        gap = float((apart_SL / np.linalg.norm(theirs.means_SLD, axis=-1)[rows]).max())
    said = []
    if tolerance.has_same_tokens and not all(same):
        said.append(f"{same.count(False)} of {len(same)} answers differ")
    if not gap <= tolerance.means:
        said.append(f"means are {gap:.1e} apart")
    if not likelihood <= tolerance.log_likelihood:
        said.append(f"log-likelihoods are {likelihood:.1e} apart")
    if ours.fired is not None and theirs.fired is not None:
        rates = [abs(ours.fired[layer] - rate) for layer, rate in theirs.fired.items()]
        if max(rates) > max(tolerance.means, 0.05):
            said.append(f"shares of tokens moved are {max(rates):.2f} apart")
    return Differences(gap, likelihood, ", ".join(said))


def _prompts() -> list[Prompt]:
    return [Prompt(text, Conversation((Message("user", text),))) for text in TEXTS]


def _floors(engine: Any) -> tuple[Given, ...]:
    """Floors on random directions at all layers but the first, that most tokens are under."""
    import torch

    from keel.engines import Probe, Recording
    from keel.geometry import unit

    width = engine.identity.hidden_size
    draws = torch.Generator().manual_seed(0)
    layers = range(1, engine.layers)
    probes = tuple(Probe(n, unit(torch.randn(width, generator=draws))) for n in layers)
    (reading,) = engine.read([TALK], recording=Recording(probes=probes))
    projections_TK = torch.cat([turn.projections_TK for turn in reading.turns])
    heights = projections_TK.quantile(_UNDER, dim=0).tolist()
    return tuple(
        Given(probe.layer, probe.direction.numpy(), height)
        for probe, height in zip(probes, heights, strict=True)
    )


def _held(engine: Any, floors: Sequence[Given], runs_as: str) -> Held:
    held = [given.floor() for given in floors]
    try:
        return Held(_measured(engine, []), _measured(engine, held), tuple(floors), runs_as)
    finally:
        engine.close()
        gc.collect()


def _measured(engine: Any, floors: Sequence[Floor]) -> Measured:
    from keel.engines import Recording

    made = engine.generate(
        _prompts(), GREEDY, seed=0, recording=Recording(means=True), interventions=floors
    )
    answers = sorted(made, key=lambda each: each.index)
    reading = engine.read(
        [TALK], recording=Recording(means=True, log_likelihood=True), interventions=floors
    )
    turns = [turn for read in reading for turn in read.turns]
    nothing = np.zeros((engine.layers, engine.identity.hidden_size), dtype=np.float32)
    means = [
        nothing if one.activations is None else one.activations.means_LD.numpy()
        for one in (*answers, *turns)
    ]
    return Measured(
        tuple(answer.token_ids for answer in answers),
        np.concatenate([turn.log_likelihood_T.numpy() for turn in turns]),
        np.stack(means),
        dict(reading.firing.by_layer) if reading.firing is not None else None,
    )
