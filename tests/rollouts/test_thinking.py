"""Means of sampled answers that begin with thinking, over the span that was chosen."""

from __future__ import annotations

import pytest
import torch

from keel.engines import Completion, Recording
from keel.engines.transformers import load_engine
from keel.rollouts import answer_prompts, read_rollouts
from keel.settings import LoadSettings
from keel.testing import save_tiny_model
from keel.types import Conversation, Message, Prompt, Sampling

SAMPLING = Sampling(max_new_tokens=40)
PROMPTS = [Prompt(f"p{n}", Conversation((Message("user", "who are you?"),))) for n in range(4)]
THOUGHTS = ["a ghost and", "", " the pirate is", " is of the"]
ANSWERS = [" you are the", " who and what", "", ""]
"""The third answer is empty; the fourth was cut off while it thought."""


class Thinker:
    """A real engine but for what it samples, which is scripted: texts with thinking."""

    def __init__(self, engine, texts, *, is_continuous):
        self.engine, self.batches_continuously = engine, is_continuous
        encode = engine.template.tokenizer
        self.token_ids = [tuple(encode(t, add_special_tokens=False)["input_ids"]) for t in texts]

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def generate(self, prompts, sampling, **given):
        for index, prompt in reversed(list(enumerate(prompts))):
            ids = self.token_ids[PROMPTS.index(prompt)]
            whole = prompt.conversation.with_reply("", ids)
            recording = Recording(means=True, spans="both")
            (reading,) = self.engine.read([whole], recording=recording)
            means = reading.turns[-1].activations if reading.turns else None
            yield Completion(index, "", ids, "stop", means)


@pytest.fixture(scope="module", params=["opened by the model", "opened by the prompt"])
def case(tmp_path_factory, request):
    """An engine, and what it samples: a template may have begun the thinking or not."""
    folder = save_tiny_model(tmp_path_factory.mktemp("model"), "llama")
    engine = load_engine(str(folder), LoadSettings(device="cpu", dtype="float32"))
    is_opened = request.param == "opened by the prompt"
    if is_opened:
        source = engine.template.source.replace(
            "assistant\n' }}{% endif", "assistant\n<think>' }}{% endif"
        )
        assert source != engine.template.source
        engine.tokenizer.chat_template = source
        engine.template = type(engine.template)(engine.tokenizer)
        assert engine.template.opens_thinking
    opening = "" if is_opened else "<think>"
    texts = [
        f"{opening}{thought}</think>{answer}" if thought or is_opened else answer
        for thought, answer in zip(THOUGHTS, ANSWERS, strict=True)
    ]
    texts[3] = f"{opening}{THOUGHTS[3]}"
    return engine, texts


def by_hand(engine, ids, start, stop):
    """Means of each block's output over some tokens of an answer, from transformers' own record."""
    prompt_ids = engine.template.prompt_ids(PROMPTS[0].conversation)
    given = torch.tensor([[*prompt_ids, *ids]])
    stream = []
    hooks = [
        block.register_forward_hook(
            lambda _m, _i, output: stream.append(output[0] if isinstance(output, tuple) else output)
        )
        for block in engine.local_model.model.model.layers
    ]
    with torch.no_grad():
        engine.local_model.model(input_ids=given)
    for hook in hooks:
        hook.remove()
    kept = slice(len(prompt_ids) + start, len(prompt_ids) + stop)
    return torch.stack([each.reshape(-1, each.shape[-1])[kept].mean(0) for each in stream])


@pytest.mark.parametrize("is_continuous", [False, True])
@pytest.mark.parametrize("spans", ["answer", "thinking", "both"])
def test_means_are_over_the_span_and_answers_without_it_are_left_out(case, spans, is_continuous):
    """Of a mean over all tokens, what was thought made the larger part."""
    engine, texts = case
    thinker = Thinker(engine, texts, is_continuous=is_continuous)
    batches = engine.plan(PROMPTS, SAMPLING)
    answered = list(answer_prompts(thinker, PROMPTS, batches, SAMPLING, seed=0, spans=spans))
    assert sorted(r.prompt.id for b in answered for r in b.rollouts) == [p.id for p in PROMPTS]
    means = {
        id: means_LD
        for batch in answered
        if batch.activations is not None
        for id, means_LD in zip(
            batch.activations.rollout_ids, batch.activations.means_BLD, strict=True
        )
    }
    counts = {
        id: tokens
        for batch in answered
        if batch.activations is not None
        for id, tokens in zip(
            batch.activations.rollout_ids, batch.activations.tokens_B.tolist(), strict=True
        )
    }
    decode = engine.template.tokenizer.decode
    wanted, lengths = {}, {}
    for prompt, ids in zip(PROMPTS, thinker.token_ids, strict=True):
        closed = [n for n in range(len(ids) + 1) if "</think>" in decode(ids[:n])]
        is_thought = decode(ids).startswith("<think>") or engine.template.opens_thinking
        end = closed[0] if closed else (len(ids) if is_thought else 0)
        start, stop = {"answer": (end, len(ids)), "thinking": (0, end), "both": (0, len(ids))}[
            spans
        ]
        if stop > start:
            wanted[prompt.id] = by_hand(engine, ids, start, stop)
            lengths[prompt.id] = stop - start
    assert counts == lengths
    assert means.keys() == wanted.keys()
    for id, means_LD in wanted.items():
        torch.testing.assert_close(means[id].float(), means_LD, rtol=1e-4, atol=1e-5)


def test_another_runs_answers_are_read_over_the_same_span(case):
    engine, texts = case
    thinker = Thinker(engine, texts, is_continuous=False)
    batches = engine.plan(PROMPTS, SAMPLING)
    for spans in ("answer", "thinking", "both"):
        (made,) = answer_prompts(thinker, PROMPTS, batches, SAMPLING, seed=0, spans=spans)
        read = read_rollouts(engine, made.rollouts, made.number, by_token=True, spans=spans)
        assert read.activations.rollout_ids == made.activations.rollout_ids
        torch.testing.assert_close(
            read.activations.means_BLD, made.activations.means_BLD, rtol=1e-4, atol=1e-5
        )
