"""Generation: with recording, in two passes, capped; and the plain ways beside them.

Every arm takes the same prompts as text, gives answers as text, and makes the same number of
tokens: no token ends an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import keel
from benchmarks.arms.texts import MODEL, prompts
from benchmarks.measuring import Measurement, in_turn, measured, narrate, timed
from keel.engines import Completion, Engine, Probe, Recording
from keel.engines.transformers import TransformersEngine
from keel.geometry import unit
from keel.steering import Intervention
from keel.testing import tiny_tokenizer
from keel.types import Floor, Prompt, Sampling

_MEANS = Recording(means=True)
_WARM_UP_TOKENS = 4


def generating(
    *, repeats: int, rows: int, new_tokens: int, band: list[int], device: str
) -> dict[str, Any]:
    """transformers' `generate` and Keel in turn: plain, recorded, capped, recorded and capped."""
    engine, asked = endless_engine() if device == "cpu" else _engine_1b(device), prompts(rows)
    floors = median_floors(engine, asked, band)
    ways: dict[str, tuple[Recording, Sequence[Intervention]]] = {
        "": (Recording(), ()),
        ", recorded": (_MEANS, ()),
        ", capped": (Recording(), floors),
        ", recorded and capped": (_MEANS, floors),
    }

    def by_keel(way: str, *, is_static: bool) -> Callable[[int], object]:
        def work(count: int) -> object:
            engine.is_static = is_static
            return answer(engine, asked, count, *ways[way])

        return work

    arms: dict[str, Callable[[int], object]] = {
        "generate": lambda count: plain(engine, asked, count),
        **{f"Keel{way}": by_keel(way, is_static=False) for way in ways},
    }
    if device != "cpu":
        arms |= {f"static{way}": by_keel(way, is_static=True) for way in ways}
    return _in_turn("generating", engine, arms, repeats, new_tokens)


def one_pass(*, rows: int, new_tokens: int) -> dict[str, Any]:
    """Answers with their means, recorded as they are generated."""
    engine, asked = endless_engine(), prompts(rows)
    return _alone(engine, lambda count: answer(engine, asked, count, _MEANS), new_tokens)


def two_passes(*, rows: int, new_tokens: int) -> dict[str, Any]:
    """Answers first, then every hidden state of prompts and answers, then the means."""
    engine, asked = endless_engine(), prompts(rows)

    def work(count: int) -> Tensor:
        ids_BT, mask_BT = plain(engine, asked, count)
        with torch.inference_mode():
            out = engine.model(ids_BT, attention_mask=mask_BT, output_hidden_states=True)
        return torch.stack([h_BTD[:, -count:].float().mean(1) for h_BTD in out.hidden_states[1:]])

    return _alone(engine, work, new_tokens)


def capping(*, repeats: int, rows: int, new_tokens: int, band: list[int]) -> dict[str, Any]:
    """Three arms in turn: uncapped, capped by Keel, capped by a plain hook on the same layers.

    All take the likeliest token: caps change the texts, and what it takes to sample a token
    depends on how many words are likely, which would be counted as the price of the caps.
    """
    engine, asked = endless_engine(), prompts(rows)
    floors = median_floors(engine, asked, band)

    def greedy(count: int, interventions: Sequence[Intervention] = ()) -> None:
        likeliest = Sampling(count, temperature=0)
        list(engine.generate(asked, likeliest, seed=0, interventions=interventions))

    def hooked(count: int) -> None:
        with plain_caps(engine.decoder.blocks, floors):
            greedy(count)

    arms: dict[str, Callable[[int], object]] = {
        "uncapped": greedy,
        "capped": lambda count: greedy(count, floors),
        "plain hook": hooked,
    }
    found = _in_turn("capping", engine, arms, repeats, new_tokens)
    answers = engine.generate(
        asked, Sampling(new_tokens, temperature=0), seed=0, interventions=floors
    )
    list(answers)
    assert answers.firing is not None
    return {**found, "firing": answers.firing.rate}


def answer(
    engine: Engine,
    asked: Sequence[Prompt],
    new_tokens: int,
    recording: Recording = Recording(),
    interventions: Sequence[Intervention] = (),
) -> list[Completion]:
    """Keel's way: the engine's completions of one batch."""
    how: dict[str, Any] = {"recording": recording, "interventions": interventions}
    return list(engine.generate(asked, Sampling(new_tokens), seed=0, **how))


def plain(engine: Any, asked: Sequence[Prompt], new_tokens: int) -> tuple[Tensor, Tensor]:
    """The usual way: template, `generate`, decode. Returns tokens and mask of prompts and answers.

    It samples as Keel does: by temperature and nucleus alone (`top_k=0` switches the top 50 off).
    """
    sampling = Sampling(new_tokens)
    chats = [
        [{"role": m.speaker, "content": m.content} for m in prompt.conversation.messages]
        for prompt in asked
    ]
    how = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    given = engine.tokenizer.apply_chat_template(chats, padding=True, **how).to(engine.device)
    ids_BT = engine.model.generate(
        **given,
        max_new_tokens=new_tokens,
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
    )
    engine.tokenizer.batch_decode(ids_BT[:, -new_tokens:], skip_special_tokens=True)
    return ids_BT, torch.nn.functional.pad(given["attention_mask"], (0, new_tokens), value=1)


def median_floors(engine: Any, asked: Sequence[Prompt], band: Sequence[int]) -> list[Floor]:
    """Floors on random directions at the median projection: they move about every other token."""
    width = engine.decoder.hidden_size
    draws = torch.Generator().manual_seed(0)
    probes = tuple(Probe(n, unit(torch.randn(width, generator=draws))) for n in band)
    found = answer(engine, asked, 4 * _WARM_UP_TOKENS, Recording(probes=probes))
    medians_K = torch.cat([one.projections_TK for one in found]).median(0).values.tolist()
    return [Floor(p.layer, p.direction, m) for p, m in zip(probes, medians_K, strict=True)]


@contextmanager
def plain_caps(blocks: Sequence[nn.Module], floors: Sequence[Floor]) -> Iterator[None]:
    """Floors the short way: a hook a layer, arithmetic in the model's dtype, nothing counted."""

    def hook_for(floor: Floor) -> Callable[..., Any]:
        def hook(block: nn.Module, _args: Any, output: Any) -> Any:
            hidden_BTD = output if isinstance(output, Tensor) else output[0]
            direction = floor.direction.to(hidden_BTD)
            lift_BT = (floor.value - hidden_BTD @ direction).clamp_min(0)
            capped_BTD = hidden_BTD + lift_BT[..., None] * direction
            return capped_BTD if isinstance(output, Tensor) else (capped_BTD, *output[1:])

        return hook

    with ExitStack() as stack:
        for floor in floors:
            hook = hook_for(floor)
            stack.callback(blocks[floor.layer].register_forward_hook(hook).remove)
        yield


def endless_engine() -> Any:
    """The embedded model, set so that no token ends an answer, in no arm."""
    return _endless(keel.open_engine(MODEL))


def _engine_1b(device: str) -> Any:
    """Random weights in the shape of a Llama of 1B parameters, with the tests' tokenizer."""
    shape = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model: Any = LlamaForCausalLM(shape).to(torch.bfloat16)
    return _endless(TransformersEngine(model, tiny_tokenizer()))


def _endless(engine: Any) -> Any:
    engine.tokenizer.padding_side = "left"
    config = engine.model.generation_config
    config.pad_token_id, config.eos_token_id = engine.tokenizer.pad_token_id, None
    engine._end_tokens = frozenset
    return engine


def _in_turn(
    name: str,
    engine: Any,
    arms: dict[str, Callable[[int], object]],
    repeats: int,
    new_tokens: int,
) -> dict[str, Any]:
    def timing(work: Callable[[int], object]) -> Callable[[], Measurement]:
        return lambda: timed(lambda: work(new_tokens))

    for work in arms.values():
        work(_WARM_UP_TOKENS)
    timings = {arm: timing(work) for arm, work in arms.items()}
    rounds = in_turn(timings, repeats, lambda *done: narrate(name, *done))
    plain_rounds = {arm: [asdict(one) for one in found] for arm, found in rounds.items()}
    return {"rounds": plain_rounds, "dtype": engine.identity.dtype}


def _alone(engine: Any, work: Callable[[int], object], new_tokens: int) -> dict[str, Any]:
    work(_WARM_UP_TOKENS)
    found = measured(lambda: work(new_tokens))
    return {"measurement": asdict(found), "dtype": engine.identity.dtype}
