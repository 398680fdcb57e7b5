"""Generation: with recording, in two passes, capped; and the plain ways beside them.

Every arm takes the same prompts as text, gives answers as text, and makes the same number of
tokens: end tokens are switched off for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

import keel
from benchmarks.arms.texts import MODEL, prompts
from benchmarks.measuring import Measurement, in_turn, measured, timed
from keel.engines import Probe, Recording
from keel.engines.transformers import TransformersEngine
from keel.geometry import unit
from keel.steering import Intervention
from keel.types import Floor, Prompt, Sampling

_CHAT = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}


def recording(*, repeats: int, rows: int, new_tokens: int) -> dict[str, Any]:
    """Three arms in turn: with recording, without, and transformers' own `generate`."""
    engine, asked = _engine(), prompts(rows)
    recording = Recording(means=True)
    return _in_turn(
        engine,
        {
            "recording": lambda: answer(engine, asked, new_tokens, recording=recording),
            "not recording": lambda: answer(engine, asked, new_tokens),
            "plain generate": lambda: plain(engine, asked, new_tokens),
        },
        repeats,
    )


def one_pass(*, rows: int, new_tokens: int) -> dict[str, Any]:
    """Answers and their means, recorded as they are generated."""
    return _alone(lambda engine, asked, new: answer(engine, asked, new, Recording(True)), rows, new_tokens)


def two_passes(*, rows: int, new_tokens: int) -> dict[str, Any]:
    """Answers first, then all hidden states of prompts and answers, then the means."""

    def work(engine: TransformersEngine, asked: Sequence[Prompt], new: int) -> Tensor:
        ids_BT, mask_BT = plain(engine, asked, new)
        with torch.inference_mode():
            run = engine.model(ids_BT, attention_mask=mask_BT, output_hidden_states=True)
        hidden_LBTD = torch.stack(run.hidden_states[1:])
        return hidden_LBTD[:, :, -new:].float().mean(2)

    return _alone(work, rows, new_tokens)


def capping(*, repeats: int, rows: int, new_tokens: int, band: list[int]) -> dict[str, Any]:
    """Three arms in turn: uncapped, capped by Keel, capped by a plain hook.

    The floors lie at the median projection of generated tokens, so that about half are moved.
    """
    engine, asked = _engine(), prompts(rows)
    with endless(engine):
        floors = _median_floors(engine, asked, new_tokens, band)

    def hooked() -> None:
        with _plain_hooks(engine, floors):
            answer(engine, asked, new_tokens)

    found = _in_turn(
        engine,
        {
            "uncapped": lambda: answer(engine, asked, new_tokens),
            "capped": lambda: answer(engine, asked, new_tokens, interventions=floors),
            "plain hook": hooked,
        },
        repeats,
    )
    with endless(engine):
        answer(engine, asked, new_tokens, interventions=floors)
    assert engine.firing is not None
    return {**found, "firing": engine.firing.rate}


def answer(
    engine: TransformersEngine,
    asked: Sequence[Prompt],
    new_tokens: int,
    recording: Recording = Recording(),
    interventions: Sequence[Intervention] = (),
) -> list[Any]:
    """Keel's way: the engine's completions of one batch."""
    settings = {"seed": 0, "recording": recording, "interventions": interventions}
    return list(engine.generate(asked, Sampling(new_tokens), **settings))


def plain(
    engine: TransformersEngine, asked: Sequence[Prompt], new_tokens: int
) -> tuple[Tensor, Tensor]:
    """The usual way: template, `generate`, decode. Returns tokens and mask of prompt and answer."""
    sampling = Sampling(new_tokens)
    chats = [[{"role":m.speaker,"content":m.content} for m in prompt.conversation.messages] for prompt in asked]
    given = engine.tokenizer.apply_chat_template(chats, padding=True, **_CHAT)
    ids_BT = engine.model.generate(
        **given,
        max_new_tokens=new_tokens,
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
    )
    width = given["input_ids"].shape[1]
    engine.tokenizer.batch_decode(ids_BT[:, width:], skip_special_tokens=True)
    assert ids_BT.shape[1] == width + new_tokens
    answered_BT = torch.ones(len(asked), new_tokens, dtype=torch.long)
    return ids_BT, torch.cat([given["attention_mask"], answered_BT], 1)


@contextmanager
def endless(engine: TransformersEngine) -> Iterator[None]:
    """No token ends an answer, in no arm: all answers have the same length."""
    config = engine.model.generation_config
    before = config.eos_token_id
    config.eos_token_id = None
    engine._end_tokens = frozenset  # type: ignore[method-assign]
    try:
        yield
    finally:
        del engine._end_tokens
        config.eos_token_id = before
