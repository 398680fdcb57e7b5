"""The arms do the same work: the same texts, the same caps, the same means."""

import json

import numpy as np
import pytest
import torch

import keel
from benchmarks.arms.generating import plain_caps
from benchmarks.arms.reading import by_keel, by_reference_style
from benchmarks.arms.texts import conversations, prompts
from benchmarks.reading import largest_difference
from keel.geometry import unit
from keel.testing import save_tiny_model, tiny_model
from keel.types import Floor
from tests.processes import unchecked


def test_conversations_are_the_same_every_time_and_of_uneven_length():
    first, second = conversations(8), conversations(8)
    lengths = [sum(len(m.content) for m in one.messages) for one in first]
    assert first == second
    assert max(lengths) > 1.5 * min(lengths)


def test_prompts_are_the_same_every_time_and_none_twice():
    """Drawn from a third of a million."""
    first, second = unchecked(prompts, 32), unchecked(prompts, 32)
    assert first == second
    assert len({prompt.id for prompt in first}) == 32


def test_the_plain_hook_caps_as_keel_does():
    model = tiny_model("llama")
    ids_BT = torch.arange(12).reshape(2, 6) + 3
    direction = unit(torch.randn(32))
    floors = [Floor(layer, direction, 0.05) for layer in (1, 2)]
    bare = model(ids_BT).logits

    with keel.steered(model, floors):
        held = model(ids_BT).logits
    with plain_caps(model.model.layers, floors):
        plainly_held = model(ids_BT).logits

    assert (held - bare).abs().max() > 1e-3
    torch.testing.assert_close(plainly_held, held)
    assert torch.equal(model(ids_BT).logits, bare)  # the hooks are gone


def test_both_ways_of_reading_find_the_same_means(tmp_path):
    folder = save_tiny_model(tmp_path / "model", "llama")
    template = keel.open_engine(str(folder), device="cpu", dtype="float32").template
    rows = []
    for conversation in conversations(3):
        transcript = template.transcript(conversation)
        messages = [[m.speaker, m.content] for m in conversation.messages]
        spans = [[turn.start, turn.stop] for turn in transcript.turns]
        rows.append({"messages": messages, "token_ids": transcript.token_ids, "spans": spans})
    (tmp_path / "given.json").write_text(json.dumps(rows))
    work = {"model": str(folder), "given": str(tmp_path / "given.json"), "dtype": "float32"}

    by_keel(**work, found=str(tmp_path / "ours.npy"))
    by_reference_style(**work, found=str(tmp_path / "theirs.npy"))

    ours, theirs = np.load(tmp_path / "ours.npy"), np.load(tmp_path / "theirs.npy")
    assert ours.shape == theirs.shape == (sum(len(row["spans"]) for row in rows), 4, 32)
    assert largest_difference(ours, theirs) < 1e-5


def test_the_difference_is_relative_and_the_largest_of_all_layers():
    # One turn, two layers: ‖(3, 4) − (3, 4)‖ = 0, and ‖(0, 11) − (0, 10)‖ / 10 = 0.1.
    means, others = np.array([[[3.0, 4.0], [0.0, 11.0]]]), np.array([[[3.0, 4.0], [0.0, 10.0]]])
    assert largest_difference(means, others) == pytest.approx(0.1)
