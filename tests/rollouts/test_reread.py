"""Rollouts read again: by the model that gave them, the same activations come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import keel
from keel.engines import Batch
from keel.rollouts import answer_prompts, read_rollouts
from keel.testing import save_tiny_model
from keel.types import Conversation, Message, Prompt, Sampling


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama")
    return keel.open_engine(str(path), device="cpu", dtype="float32")


def answered(engine: Any):
    prompts = [
        Prompt(f"x/p0/q{n}", Conversation((Message("user", text),)), "x", 0, n)
        for n, text in enumerate(("Who are you?", "What is the sea, and why?", "Where to?"))
    ]
    batches = [Batch(0, (0, 1, 2))]
    sampling = Sampling(max_new_tokens=7, temperature=1.0)
    return next(answer_prompts(engine, prompts, batches, sampling, seed=3))


def test_the_model_that_gave_the_answers_reads_them_as_it_gave_them(engine: Any):
    """Recorded while sampling, and read by the very tokens: one equals the other."""
    first = answered(engine)
    again = read_rollouts(engine, first.rollouts, 0, by_token=True)
    assert again.rollouts == first.rollouts
    assert again.activations is not None
    assert first.activations is not None
    assert again.activations.rollout_ids == first.activations.rollout_ids
    assert torch.allclose(again.activations.means_BLD, first.activations.means_BLD, atol=1e-4)


def test_another_model_reads_the_words_by_tokens_of_its_own(engine: Any, tmp_path: Path):
    first = answered(engine)
    other = keel.open_engine(
        str(save_tiny_model(tmp_path / "other", "gpt2")), device="cpu", dtype="float32"
    )
    again = read_rollouts(other, first.rollouts, 4, by_token=False)
    assert again.number == 4
    assert [r.text for r in again.rollouts] == [r.text for r in first.rollouts]
    assert again.activations is not None
    with_words = [r.prompt.id for r in again.rollouts if r.token_ids]
    assert list(again.activations.rollout_ids) == with_words
    shape = (len(with_words), other.layers, other.identity.hidden_size)
    assert again.activations.means_BLD.shape == shape


def test_an_answer_without_words_is_kept_without_activations(engine: Any):
    from dataclasses import replace

    first = answered(engine)
    empty = replace(first.rollouts[1], text="", token_ids=())
    again = read_rollouts(engine, [first.rollouts[0], empty], 0, by_token=True)
    assert [bool(r.token_ids) for r in again.rollouts] == [True, False]
    assert again.activations is not None
    assert again.activations.rollout_ids == (first.rollouts[0].prompt.id,)
