"""Whose token is whose, and counted once: in any split of a conversation into steps."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keel.engines.vllm.token_book import RECORD, SCORE, SPANS, SUMS, TRASH, TokenBook
from keel.errors import UsageError


@dataclass
class Talk:
    """A conversation, and the steps (start, count) in which an engine computes it."""

    prompt: int
    total: int
    steps: list[tuple[int, int]] = field(default_factory=list)


@st.composite
def talks(draw, answer=st.integers(0, 6)):
    """Any split: a cached start, chunks of the prompt, tokens one by one, preemptions."""
    prompt = draw(st.integers(1, 10))
    talk = Talk(prompt, prompt + draw(answer))
    done = draw(st.integers(0, prompt - 1))  # in the prefix cache
    known, preemptions = prompt, draw(st.integers(0, 3))
    while done < talk.total:
        count = draw(st.integers(1, known - done))
        talk.steps.append((done, count))
        done += count
        if done == known and known < talk.total:
            known += 1  # the model sampled a token
        if preemptions and draw(st.booleans()):
            preemptions -= 1
            # What is recomputed starts where the cache ends; the last token never comes from it.
            done = draw(st.integers(0, min(done, known - 1)))
    return talk


def positions(found, start, place):
    """(turn, position in the conversation) of what a step takes."""
    return [
        (turn, row - place + start)
        for _, turn, begin, end in found.taken
        for row in range(begin, end)
    ]


def run(book, talk, offset=0):
    """All that the book says of request `a`, which stands behind `offset` tokens of another."""
    taken, phases, tallied, predicted = [], {}, 0, []
    for start, count in talk.steps:
        found = book.step_maps(["other", "a"], [7, start], [offset, count])
        taken += positions(found, start, offset)
        for place in range(count):
            phases.setdefault(start + place, set()).add(int(found.phase_T[offset + place]))
        tallied += int((found.tally_row_T[offset:] != 0).sum())
        for _, first, many in found.predicting:
            predicted += range(first - offset + start, first - offset + start + many)
        assert (found.phase_T[:offset] == 0).all()
    return taken, phases, tallied, predicted


@given(talks(), st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_every_answered_token_is_recorded_once_and_no_token_of_the_prompt(talk, offset):
    book = TokenBook(2)
    book.admit("a", 3, range(talk.prompt), {RECORD: "k"})
    taken, phases, tallied, _ = run(book, talk, offset)
    assert taken == [(0, position) for position in range(talk.prompt, talk.total)]
    assert book.close("k").spans[0].tokens == talk.total - talk.prompt
    # Setting 3: phase 6 in the prompt, 7 from the first sampled token on, however often computed.
    for position, found in phases.items():
        assert found == {7 if position >= talk.prompt else 6}
    assert tallied == sum(count for _, count in talk.steps) == book.tallied.get(3, 0)


@given(talks(answer=st.just(0)), st.data(), st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_given_turns_are_recorded_once_and_predicted_once(talk, data, offset):
    """Two turns that stand in the prompt; the cache may have swallowed the beginning."""
    edges = sorted(data.draw(st.lists(st.integers(0, talk.total), min_size=4, max_size=4)))
    book = TokenBook(2)
    book.admit("a", 3, range(talk.total), {RECORD: "k", SPANS: edges, SCORE: 1})
    taken, phases, tallied, predicted = run(book, talk, offset)
    computed = {p for start, count in talk.steps for p in range(start, start + count)}
    wanted = [(0, p) for p in range(*edges[:2])] + [(1, p) for p in range(*edges[2:])]
    # Steps may be preempted before a position that the cache skipped: it is then too late.
    assert set(taken) <= {(turn, p) for turn, p in wanted if p in computed}
    assert len(taken) == len(set(taken)) == tallied == book.tallied.get(3, 0)
    assert len(predicted) == len(set(predicted))
    if talk.steps[0][0] == 0:  # nothing was cached: nothing is missing
        assert taken == wanted
        assert predicted == [p - 1 for _, p in wanted if p > 0]
    spoken = {p for _, p in wanted}
    assert all(found == {7 if p in spoken else 6} for p, found in phases.items())
    turns = book.close("k").spans
    assert [turn.tokens for turn in turns] == [
        sum(1 for turn, _ in taken if turn == number) for number in (0, 1)
    ]


def test_a_token_that_the_cache_skipped_is_not_counted_as_recorded():
    """It was once: the mean was then divided by more tokens than it had summed."""
    book = TokenBook(1)
    book.admit("a", 0, range(8), {RECORD: "k", SPANS: [2, 6]})
    book.step_maps(["a"], [4], [4])  # positions 0 to 3 came from the cache; 4 and 5 are of the turn
    assert book.close("k").spans[0].tokens == 2


def test_without_a_recording_every_token_of_a_setting_is_tallied_and_no_other():
    book = TokenBook(0)
    book.admit("a", 1, range(3), {})
    book.admit("b", 0, range(3), {})
    found = book.step_maps(["b", "a", "stranger"], [0, 2, 0], [2, 3, 1])
    # a: position 2 is prompt (phase 2), 3 and 4 are sampled (phase 3).
    assert found.phase_T.tolist() == [0, 0, 2, 3, 3, 0]
    assert found.tally_row_T.tolist() == [0, 0, 1, 1, 1, 0]
    assert book.tallied == {1: 3}


def test_the_first_token_of_a_request_is_spared_where_its_setting_says_so():
    """It is seen and tallied all the same, so that no token can go past unnoticed."""
    book = TokenBook(0)
    book.sparing.add(1)
    book.admit("a", 1, range(3), {})
    book.admit("b", 2, range(3), {})
    found = book.step_maps(["a", "b"], [0, 0], [3, 3])
    assert found.phase_T.tolist() == [0, 2, 2, 4, 4, 4]
    assert found.tally_row_T.tolist() == [1, 1, 1, 2, 2, 2]
    # What goes on has no first token; a request that was thrown out begins again.
    assert book.step_maps(["a"], [2], [2]).phase_T.tolist() == [2, 3]
    assert book.step_maps(["a"], [0], [2]).phase_T.tolist() == [0, 2]


def test_tokens_that_nobody_records_go_to_spare_rows():
    book = TokenBook(3)
    book.admit("a", 0, range(2), {RECORD: "k"})
    found = book.step_maps(["a", "b"], [1, 0], [2, 3])
    (row,) = {turn.row for turn in book.by_key["k"].spans}
    assert found.sums_row_T.tolist()[1] == row < 3
    spare = [n for place, n in enumerate(found.sums_row_T.tolist()) if place != 1]
    assert all(3 <= n < 3 + TRASH for n in spare)


def test_two_turns_of_one_request_have_rows_of_their_own():
    book = TokenBook(2)
    book.admit("a", 0, range(6), {RECORD: "k", SPANS: [1, 2, 4, 6]})
    rows = book.step_maps(["a"], [0], [6]).sums_row_T.tolist()
    first, second = (turn.row for turn in book.by_key["k"].spans)
    assert {first, second} == {0, 1}
    assert (rows[1], rows[4], rows[5]) == (first, second, second)


@pytest.mark.parametrize(
    ("spans", "start", "count", "is_crowded"),
    [
        ([1, 4], 0, 4, True),  # read in one pass
        ([1, 4], 3, 1, False),  # its last token alone
        ([0, 1, 2, 3], 0, 4, False),  # two turns of one token each, a row each
        ([4, -1], 0, 4, False),  # a prompt whose answer is recorded
        ([4, -1], 4, 1, False),  # the answer, a token a step
    ],
)
def test_a_step_is_crowded_where_one_row_takes_several_tokens(spans, start, count, is_crowded):
    book = TokenBook(2)
    book.admit("a", 0, range(4), {RECORD: "k", SPANS: spans})
    assert book.step_maps(["a"], [start], [count]).is_crowded is is_crowded


def test_a_preempted_answer_does_not_crowd_its_row():
    """All of it is computed again, and counted but once."""
    book = TokenBook(1)
    book.admit("a", 0, range(2), {RECORD: "k"})
    for start in (0, 2, 3):
        book.step_maps(["a"], [start], [2 if start == 0 else 1])
    again = book.step_maps(["a"], [0], [5])
    assert positions(again, 0, 0) == [(0, 4)]
    assert not again.is_crowded


def test_rows_are_free_again_once_a_recording_is_collected():
    book = TokenBook(2)
    for number in range(5):
        book.admit(f"r{number}", 0, range(6), {RECORD: f"k{number}", SPANS: [1, 2, 4, 6]})
        book.forget([f"r{number}"])
        assert book.free == []
        book.close(f"k{number}")
        assert sorted(book.free) == [0, 1]


def test_more_turns_than_rows_are_refused_and_take_none():
    book = TokenBook(2)
    with pytest.raises(UsageError, match="3 turns to record and 2 of 2 rows free"):
        book.admit("a", 0, range(9), {RECORD: "k", SPANS: [1, 2, 3, 4, 5, 6]})
    assert sorted(book.free) == [0, 1]
    assert not book.requests


def test_spans_without_an_end_are_refused():
    with pytest.raises(UsageError, match="3 numbers, expected start, stop"):
        TokenBook(2).admit("a", 0, range(9), {RECORD: "k", SPANS: [1, 2, 3]})


def test_two_recordings_of_one_key_are_refused():
    book = TokenBook(2)
    book.admit("a", 0, range(3), {RECORD: "k"})
    with pytest.raises(UsageError, match="'k' is there already"):
        book.admit("b", 0, range(3), {RECORD: "k"})


@pytest.mark.parametrize("ask", ["close", "recorded"])
def test_what_was_never_recorded_cannot_be_collected(ask):
    with pytest.raises(UsageError, match="nothing is recorded under 'k'"):
        getattr(TokenBook(1), ask)("k")


def test_a_recording_outlives_its_request():
    book = TokenBook(1)
    book.admit("a", 0, range(2), {RECORD: "k"})
    book.step_maps(["a"], [0], [4])
    book.forget(["a", "never seen"])
    assert book.close("k").spans[0].tokens == 2


def test_a_request_that_comes_again_after_a_preemption_keeps_its_place():
    book = TokenBook(1)
    book.admit("a", 0, range(2), {RECORD: "k"})
    book.step_maps(["a"], [0], [3])
    book.admit("a", 0, range(3), {RECORD: "k"})  # with what it had said as prompt
    assert positions(book.step_maps(["a"], [0], [4]), 0, 0) == [(0, 3)]


def test_a_collected_recording_takes_no_more_tokens():
    """Its row may be another's by then."""
    book = TokenBook(1)
    book.admit("a", 2, range(2), {RECORD: "k"})
    book.close("k")
    book.admit("b", 2, range(2), {RECORD: "l"})
    found = book.step_maps(["a", "b"], [2, 2], [1, 1])
    assert [key for key, *_ in found.taken] == ["l"]
    assert found.sums_row_T.tolist() == [1, 0]
    assert found.tally_row_T.tolist() == [2, 2]


@pytest.mark.parametrize(("recordings", "sums"), [(0, 1), (1, 0)])
def test_scores_alone_need_no_row(recordings, sums):
    book = TokenBook(recordings)
    book.admit("a", 0, range(5), {RECORD: "k", SPANS: [2, 5], SUMS: sums, SCORE: 1})
    found = book.step_maps(["a"], [0], [5])
    # Tokens 2, 3 and 4 are predicted by rows 1, 2 and 3.
    assert found.predicting == [("k", 1, 3)]
    assert not found.is_crowded
    assert book.close("k").spans[0].row == -1
    assert book.free == list(range(recordings))
