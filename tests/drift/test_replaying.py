"""Two arms answer the same questions, each on its own history."""

from __future__ import annotations

import pytest

from keel.drift import replay
from keel.errors import ContextLengthError, NotAppliedError, UsageError
from keel.testing import FakeEngine, scripted
from keel.types import Conversation, Floor, Floors, Message, Sampling

LAYER = 2
GIVEN = Conversation(
    (
        Message("system", "Stay calm."),
        Message("user", "please help me now"),
        Message("assistant", "an old answer"),
        Message("user", "be a ghost"),
        Message("assistant", "another old answer"),
        Message("user", "what then is left"),
    ),
    "haunted",
)


class Watched(FakeEngine):
    """Keeps what it was asked."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.calls: list[tuple[Conversation, int, bool]] = []

    def generate(self, prompts, sampling, *, seed, interventions=(), **rest):
        (own,) = seed
        self.calls.append((prompts[0].conversation, own, bool(interventions)))
        return super().generate(prompts, sampling, seed=seed, interventions=interventions, **rest)

    def arm(self, *, capped: bool) -> list[tuple[Conversation, int]]:
        return [(asked, seed) for asked, seed, is_capped in self.calls if is_capped == capped]


def band(value: float = 1.5, layers=(LAYER, LAYER + 1)) -> Floors:
    """Floors at half the default's projection at layer 2, which is 3."""
    axis = FakeEngine().axis
    return Floors(tuple(Floor(n, axis.direction[n], value) for n in layers), "layers_2:4-p75")


def played(engine, conversation=GIVEN, floors=None, **options):
    settings = {"sampling": Sampling(max_new_tokens=20), "seed": 5, **options}
    return replay(engine, conversation, FakeEngine().axis, floors=floors or band(), **settings)


def test_each_arm_goes_on_with_its_own_answers_and_none_of_the_old():
    """The ghost howls uncapped; capped it does not, so the third question meets two histories."""
    engine = Watched()
    found = played(engine, floors=band(3.0))
    for is_capped in (False, True):
        answers = [turn.capped.text if is_capped else turn.uncapped.text for turn in found.turns]
        last, _ = engine.arm(capped=is_capped)[-1]
        said = [m.content for m in last.messages if m.speaker == "assistant"]
        assert said == answers[:2]
    assert found.turns[1].uncapped.text.startswith("whooo")
    assert not found.turns[1].capped.text.startswith("whooo")


def test_both_arms_are_asked_what_the_user_asked_under_the_same_system_message():
    engine = Watched()
    found = played(engine)
    assert [turn.user for turn in found.turns] == [
        "please help me now",
        "be a ghost",
        "what then is left",
    ]
    for is_capped in (False, True):
        last, _ = engine.arm(capped=is_capped)[-1]
        assert last.system == "Stay calm."
        assert [m.content for m in last.messages if m.speaker == "user"] == [
            turn.user for turn in found.turns
        ]


def test_the_history_holds_the_very_tokens_that_were_sampled():
    engine = Watched()
    played(engine)
    last, _ = engine.arm(capped=True)[-1]
    tokens = [m.token_ids for m in last.messages if m.speaker == "assistant"]
    assert None not in tokens
    assert len(tokens) == 2


def test_both_arms_draw_with_one_seed_per_turn_and_turns_with_different_ones():
    engine = Watched()
    played(engine)
    uncapped, capped = ([seed for _, seed in engine.arm(capped=c)] for c in (False, True))
    assert uncapped == capped
    assert len(set(capped)) == 3
    assert all(0 <= seed < 2**63 for seed in capped)


def test_the_same_seed_replays_the_same_and_another_seed_does_not():
    assert played(FakeEngine(), seed=1) == played(FakeEngine(), seed=1)
    assert played(FakeEngine(), seed=1) != played(FakeEngine(), seed=2)


def test_floors_that_nobody_is_under_leave_both_arms_equal_and_never_fire():
    found = played(FakeEngine(), floors=band(-50.0))
    assert all(turn.uncapped == turn.capped for turn in found.turns)
    assert found.firing_rate == 0


def test_capped_tokens_stand_at_or_above_the_floor_and_uncapped_ones_where_planted():
    """Personas 1, 0, 0 project to 3, 0, 0 at layer 2; the floor is 1.5."""
    found = played(FakeEngine(noise=0))
    uncapped = [turn.uncapped.projection for turn in found.turns]
    capped = [turn.capped.projection for turn in found.turns]
    assert uncapped == pytest.approx([3, 0, 0], abs=1e-5)
    assert capped == pytest.approx([3, 1.5, 1.5], abs=1e-5)
    assert min(p for turn in found.turns for p in turn.capped.token_projections) > 1.5 - 1e-5
    assert [turn.uncapped.is_below_floor for turn in found.turns] == [False, True, True]
    assert [turn.capped.is_below_floor for turn in found.turns] == [False, False, False]


def test_the_firing_rate_adds_up_all_capped_turns():
    """One floor of 1.5 at layer 2, no noise, answers 'a b'. Words: 'help' 1, 'ghost' 1.

    Turn 1: 1 + 2 = 3 tokens at 3, none fires. Turn 2: those 3, and 1 + 2 at 0, which fire.
    So 3 of 3 + 6 slots.
    """
    engine = FakeEngine(noise=0, reply=scripted("a b"))
    found = played(engine, ["help", "ghost"], floors=band(layers=(LAYER,)))
    assert found.firing_rate == pytest.approx(3 / 9)


def test_per_token_projections_are_those_of_the_answer():
    found = played(FakeEngine(reply=scripted("one two three")), ["hello there"])
    assert len(found.turns[0].uncapped.token_projections) == 3


def test_user_turns_alone_are_enough():
    found = played(FakeEngine(), ["hello", "be a ghost"])
    assert [turn.user for turn in found.turns] == ["hello", "be a ghost"]
    assert found.conversation_id == ""


def test_the_result_says_what_was_played_and_how():
    found = played(FakeEngine())
    assert (found.conversation_id, found.layer) == ("haunted", LAYER)
    assert (found.floor, found.setting) == (1.5, "layers_2:4-p75")


def test_another_layer_is_read_where_there_may_be_no_floor():
    found = played(FakeEngine(noise=0), layer=0)
    assert (found.layer, found.floor) == (0, None)
    assert found.turns[0].capped.projection == pytest.approx(1)
    assert found.turns[0].capped.is_below_floor is None


def test_each_turn_is_handed_on_before_the_next_is_asked():
    engine = Watched()
    seen = []
    found = played(engine, on_turn=lambda turn: seen.append((turn, len(engine.calls))))
    assert [turn for turn, _ in seen] == list(found.turns)
    assert [calls for _, calls in seen] == [2, 4, 6]


def test_an_empty_answer_is_said_and_the_replay_goes_on():
    seen = []
    engine = Watched(reply=scripted("one", "", "three"))
    found = played(engine, on_turn=seen.append)
    assert [turn.uncapped.turn for turn in found.turns] == [0, 2]
    assert [turn.user for turn in found.turns] == ["please help me now", "what then is left"]
    assert found.unread == (1,)
    assert len(seen) == 2
    last, _ = engine.arm(capped=False)[-1]
    assert [m.content for m in last.messages if m.speaker == "assistant"] == ["one", ""]


def test_an_engine_that_ignores_floors_is_found_out():
    with pytest.raises(NotAppliedError, match="saw no token"):
        played(FakeEngine(unreached_layers=range(4)))


def test_a_conversation_in_which_nobody_asks_is_refused():
    silent = Conversation((Message("assistant", "Hello?"),), "silent")
    with pytest.raises(UsageError, match="'silent' has no user message"):
        played(FakeEngine(), silent)


def test_one_text_instead_of_a_list_is_refused():
    """Else every letter would be a question."""
    with pytest.raises(UsageError, match="pass a list of texts"):
        played(FakeEngine(), "hello")


def test_several_draws_give_each_turn_an_interval_and_the_first_draw_is_that_of_one():
    hot = Sampling(max_new_tokens=20, temperature=1.0)
    one, five = (played(FakeEngine(), draws=n, sampling=hot) for n in (1, 5))
    assert one.turns[0].spread is None
    assert [turn.uncapped.text for turn in five.turns] == [t.uncapped.text for t in one.turns]
    assert five.draws == 5
    for turn in five.turns:
        assert turn.spread.draws == 5
        for interval in (turn.spread.uncapped, turn.spread.capped, turn.spread.difference):
            assert interval.low <= interval.value <= interval.high
        difference = turn.spread.capped.value - turn.spread.uncapped.value
        assert turn.spread.difference.value == pytest.approx(difference)


def test_without_a_temperature_there_is_one_draw_and_no_interval():
    """Five equal draws gave every turn an interval of no width, as if nothing could vary."""
    said = []
    made = played(
        FakeEngine(), draws=5, sampling=Sampling(20, temperature=0), on_answered=said.append
    )
    assert made.draws == 1
    assert all(turn.spread is None for turn in made.turns)
    assert all(len(each.uncapped) == len(each.capped) == 1 for each in said)


class Short(FakeEngine):
    """Has room for four messages."""

    def generate(self, prompts, sampling, **rest):
        if len(prompts[0].conversation.messages) > 4:
            raise ContextLengthError("5 messages, expected at most 4")
        return super().generate(prompts, sampling, **rest)


def test_a_replay_ends_where_the_context_does_and_keeps_what_was_answered():
    made = played(Short())
    assert len(made.turns) == 2
    assert "at most 4" in made.ended
    assert played(FakeEngine()).ended == ""


def test_a_turn_without_room_on_the_capped_side_is_not_answered_uncapped_either():
    """Else its answer is kept nowhere, and a rerun computes it once more."""

    def reply(conversation, persona, chance):
        return "Boo." if persona < 0.5 else "an answer of a good many more words"

    whole, narrow = Watched(reply=reply), Watched(reply=reply)
    played(whole, floors=band(3.0))
    plain, held = (
        len(narrow.template.prompt_ids(whole.arm(capped=is_capped)[-1][0]))
        for is_capped in (False, True)
    )
    assert plain < held
    narrow.context_tokens = plain + 20
    made = played(narrow, floors=band(3.0))
    assert len(made.turns) == 2
    assert "the model's context holds" in made.ended
    assert len(narrow.arm(capped=False)) == len(narrow.arm(capped=True)) == 2


def test_a_conversation_whose_first_turn_does_not_fit_is_refused():
    class Full(Short):
        def generate(self, prompts, sampling, **rest):
            raise ContextLengthError("too long")

    with pytest.raises(ContextLengthError):
        played(Full())


def test_what_an_interrupted_replay_answered_is_not_answered_again():
    said = []
    whole = played(FakeEngine(), draws=3, on_answered=said.append)
    for known in range(4):
        asked = []

        class Counting(FakeEngine):
            def generate(self, prompts, sampling, asked=asked, **rest):
                asked.extend(prompts)
                return super().generate(prompts, sampling, **rest)

        assert played(Counting(), draws=3, answered=said[:known]) == whole
        assert len(asked) == (3 - known) * 3 * 2  # turns x draws x arms


def test_fewer_draws_than_one_are_refused():
    with pytest.raises(UsageError, match="draws is 0"):
        played(FakeEngine(), draws=0)
