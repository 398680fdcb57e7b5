"""Seeds from names. The numbers were computed by the code of commit a7ca523: runs go on by them."""

import hashlib

import pytest
import torch

from keel.drift.replaying import _turn_seed
from keel.evaluate import EngineAnswerer
from keel.evaluate.controls import draw_source
from keel.rollouts import batch_seed
from keel.seeds import seed_of, shuffle_key, text_hash
from keel.testing import FakeEngine
from keel.types import Conversation, Message
from tests.evaluate.small import evaluation, suite


def test_a_rollout_batch_keeps_the_seed_of_runs_already_made():
    assert batch_seed(7, 3) == 4816069768302546
    assert batch_seed(0, 0) == 48539274569083416


def test_an_evaluation_batch_keeps_the_seed_of_evaluations_already_made():
    seven, none = (
        evaluation(EngineAnswerer(FakeEngine()), suite().items, seed=seed) for seed in (7, 0)
    )
    assert seven.batch_seed("first", 3) == 25241070065786160
    assert none.batch_seed("follow_up", 12) == 13510395197109447


def test_a_control_direction_keeps_its_draws():
    assert draw_source(7, "random", 2).initial_seed() == 6950187651020764869
    assert draw_source(0, "permuted", 0).initial_seed() == 826694191524351101


def test_a_replayed_turn_keeps_its_seed():
    assert _turn_seed(7, 3, draw=0) == 3977730901335215502
    assert _turn_seed(0, 0, draw=0) == 8111105572000682836


def test_a_request_to_vllm_keeps_its_seed():
    assert seed_of(7, "role:pirate/0", separator="/") == 62632339205228300


def test_a_conversation_from_inspect_keeps_its_seed():
    inspect_model = pytest.importorskip("keel.serve.inspect_model")
    conversation = Conversation((Message("user", "Hi"),))
    assert inspect_model.conversation_seed(conversation, seed=7, repeat=1) == 62354826331937404


def test_items_are_shuffled_as_in_runs_already_made():
    assert shuffle_key(7, "pirate").hex() == (
        "e57aeda3bf31cbe8ee046ba67d2fddeb5798d270983dad75697db53ce58e8e85"
    )


@pytest.mark.parametrize("bits", [56, 63])
def test_a_seed_is_one_that_torch_takes(bits):
    for number in range(100):
        torch.Generator().manual_seed(seed_of("run", number, bits=bits))


def test_fewer_bits_are_the_first_bits_of_more():
    assert seed_of("a", bits=63) >> 7 == seed_of("a", bits=56)


def test_text_with_half_a_surrogate_pair_has_a_seed_a_rank_and_a_hash():
    """Models write them, and seeds and some hashes were refused to them."""
    half = "\ud83d"
    assert seed_of(half) != seed_of("?")
    assert shuffle_key(7, half) != shuffle_key(7, "?")
    assert text_hash(half, 6) != text_hash("?", 6)


def test_the_hash_of_a_text_is_that_of_its_utf_8():
    assert text_hash("Grüße") == hashlib.sha256("Grüße".encode()).hexdigest()
    assert text_hash("Grüße", 8) == text_hash("Grüße")[:8]
