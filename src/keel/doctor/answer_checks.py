"""Checks of answers as they are generated: cache, padding, early ends, token masks, recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from keel.doctor.findings import CheckFailedError, CheckSkippedError, check_close
from keel.doctor.subject import Subject
from keel.engines import Completion, Recording
from keel.errors import KeelError
from keel.steering import steered
from keel.types import Prompt, TokenMask

_STEPS = 5


def check_cache(subject: Subject) -> str:
    """What a cached step sees equals what a pass without a cache sees, capped and not."""
    prompt = subject.prompts[1]
    (answer,) = subject.answers([prompt])
    off = _check_recorded(subject, [prompt], [answer], "an answer alone")
    (answer,) = subject.answers([prompt], subject.floors)
    with subject.held_by_hand():
        off = max(off, _check_recorded(subject, [prompt], [answer], "a capped answer"))
    how = "" if subject.engine.traits.passes.reuses_state else "the cache misleads it: not used; "
    return f"{how}recorded while generating and in a pass without cache: off by {off:.0e}"


def check_padding(subject: Subject) -> str:
    """Rows of a padded batch see what each sees alone."""
    prompts = subject.prompts
    if len({len(subject.template.prompt_ids(prompt.conversation)) for prompt in prompts}) == 1:
        raise CheckSkippedError(
            f"in a context of {subject.context} tokens all prompts are of one length: "
            "there is nothing to pad"
        )
    off = _check_recorded(subject, prompts, subject.answers(prompts), "a padded row")
    how = "" if subject.engine.traits.pads_left else "padding misleads it: never padded; "
    return f"{how}{len(prompts)} prompts of unequal length and each alone: off by {off:.0e}"


def check_early_ends(subject: Subject) -> str:
    """Rows that go on after others have ended are answered as if they were alone."""
    prompts = subject.prompts
    drawn = [answer.token_ids for answer in subject.answers(prompts)]
    # Two rows end after a few tokens, by tokens that they drew before.
    ends = {row[min(at, len(row) - 1)] for row, at in ((drawn[0], 2), (drawn[2], 5)) if row}
    if not ends:
        raise CheckSkippedError("the model's answers are empty")
    with subject.ended_by(sorted(ends)):
        answers = subject.answers(prompts)
    if any(ends & set(answer.token_ids) for answer in answers):
        raise CheckFailedError("a row went on after its end token")
    off = _check_recorded(subject, prompts, answers, "a row beside others that ended")
    lengths = ", ".join(str(len(answer.token_ids)) for answer in answers)
    return f"rows of {lengths} tokens and each alone: off by {off:.0e}"


def check_reading_again(subject: Subject) -> str:
    """What was recorded of an answer while it was generated is what reading it records."""
    prompts = subject.prompts
    answers = {answer.index: answer for answer in subject.answers(prompts) if answer.token_ids}
    indices = list(answers)
    conversations = [
        prompts[n].conversation.with_reply(answers[n].text, answers[n].token_ids) for n in indices
    ]
    off = 0.0
    for reading in subject.engine.read(conversations, recording=Recording(means=True)):
        answer, turn = answers[indices[reading.index]], reading.turns[-1]
        if turn.token_ids != answer.token_ids:
            raise CheckFailedError("an answer is read as other tokens than were drawn")
        if answer.activations is None or turn.activations is None:
            raise CheckFailedError("no means are recorded of an answer that has tokens")
        means = (answer.activations.means_LD, turn.activations.means_LD)
        what = "means of an answer generated and read"
        off = max(off, check_close(*means, what, dtype=subject.model.dtype))
    return f"means of {len(answers)} answers, generated and read: off by {off:.0e}"


def check_masks(subject: Subject) -> str:
    """Floors on the prompt or on generated tokens alone move those and no others."""
    masks: tuple[TokenMask, ...] = ("prompt", "generated")
    for tokens in masks:
        _check_mask(subject, tokens, use_cache=True)
    try:
        for tokens in masks:
            _check_mask(subject, tokens, use_cache=False)
    except KeelError as refusal:
        return f"right with a cache; without one: {refusal}"
    return "floors on the prompt's tokens or on generated ones hold there and nowhere else"


def _check_mask(subject: Subject, tokens: TokenMask, *, use_cache: bool) -> None:
    """Each step's logits of `model.generate` against one plain pass, held where it should be."""
    length = len(subject.template.prompt_ids(subject.prompts[0].conversation))
    how = f"{'with' if use_cache else 'without'} a cache"
    ids_BT, unsteered_TV = _generated(subject, use_cache=use_cache)
    plain_TV = subject.plain_logits(ids_BT[:, :-1])[length - 1 :]
    try:
        check_close(unsteered_TV, plain_TV, "logits", dtype=subject.model.dtype)
    except CheckFailedError as difference:
        raise CheckSkippedError(
            f"without Keel, `model.generate` {how} already differs from a pass over the same "
            f"tokens: {difference}"
        ) from difference
    floors = [replace(floor, tokens=tokens) for floor in subject.floors]
    with steered(subject.model, floors, blocks=subject.blocks):
        ids_BT, actual_TV = _generated(subject, use_cache=use_cache)

    def held(width: int) -> Tensor:
        is_generated_T = torch.arange(width) >= length
        return (is_generated_T if tokens == "generated" else ~is_generated_T).float()

    expected_TV = subject.capped_logits(ids_BT[:, :-1], held)[length - 1 :]
    what = f"logits with floors on {tokens} tokens {how}, and by hand,"
    check_close(actual_TV, expected_TV, what, dtype=subject.model.dtype)


def _generated(subject: Subject, *, use_cache: bool) -> tuple[Tensor, Tensor]:
    """Tokens [row, token] and each step's logits [token, vocabulary] of `model.generate`."""
    ids_BT = subject.row(subject.template.prompt_ids(subject.prompts[0].conversation))
    with torch.inference_mode():
        generated: Any = subject.model.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=min(_STEPS, subject.new_tokens),
            min_new_tokens=min(_STEPS, subject.new_tokens),
            do_sample=False,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return generated.sequences, torch.cat(list(generated.logits)).float().cpu()


def _check_recorded(
    subject: Subject, prompts: Sequence[Prompt], answers: Sequence[Completion], whose: str
) -> float:
    """Hold the means of answers against plain passes over prompt and answer, one by one."""
    off = 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        if not answer.token_ids:
            continue
        if answer.activations is None:
            raise CheckFailedError(f"no means are recorded of {whose}")
        plain = subject.plain_means(prompt, answer)
        expected_LD = torch.stack([plain[layer] for layer in sorted(plain)])
        actual_LD = answer.activations.means_LD[sorted(plain)]
        what = f"means of {whose} and in a plain pass"
        off = max(off, check_close(actual_LD, expected_LD, what, dtype=subject.model.dtype))
    return off
