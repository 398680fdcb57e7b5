"""Stop strings end answers: text, tokens and what is recorded of them agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keel.engines import Probe, Recording, text_before
from keel.engines.decoding import cut_at_stop, has_just_stopped
from keel.errors import UsageError
from keel.testing import FakeEngine, tiny_tokenizer
from keel.types import Sampling
from tests.engines.small import SAMPLING, V, answered, engine, prompts

PROBING = Recording(probes=(Probe(1, V),))


class Letters:
    """A tokenizer whose token is a place in a list of pieces of text."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def decode(self, token_ids, skip_special_tokens):
        return "".join(self.pieces[token] for token in token_ids)


def completions(made, sampling, recording=PROBING):
    found = made.generate(prompts(), sampling, seed=1, recording=recording)
    return sorted(found, key=lambda completion: completion.index)


def test_the_text_ends_before_whichever_stop_string_comes_first():
    assert text_before("a, b. c", (".", ",")) == "a"
    assert text_before("a, b. c", ("!",)) == "a, b. c"
    assert text_before("a, b. c", ()) == "a, b. c"


def test_a_token_that_holds_text_and_stop_is_kept_and_those_of_the_stop_alone_are_not():
    """The stop of two line ends begins inside the second token, `.` and a line end."""
    pieces = Letters("So", ".\n", "\n", "Q")
    cut = cut_at_stop(pieces, (0, 1, 2, 3), ("\n\n",))
    assert (cut.text, cut.token_ids, cut.is_stopped) == ("So.", (0, 1), True)
    cut = cut_at_stop(pieces, (0, 1, 2, 3), ("\nQ",))
    assert (cut.text, cut.token_ids) == ("So.\n", (0, 1))
    cut = cut_at_stop(pieces, (0, 1), ("\n\n",))
    assert (cut.text, cut.token_ids, cut.is_stopped) == ("So.\n", (0, 1), False)


def test_an_answer_that_begins_with_a_stop_string_is_empty():
    cut = cut_at_stop(Letters("\n", "a"), (0, 1), ("\n",))
    assert (cut.text, cut.token_ids) == ("", ())


def test_a_stop_string_of_many_tokens_is_seen_with_its_last_token():
    pieces = Letters(*"and so on Question:")
    tokens = list(range(len(pieces.pieces)))
    assert has_just_stopped(pieces, tokens, ("Question:",))
    assert not has_just_stopped(pieces, tokens[:-1], ("Question:",))


def test_an_answer_ends_at_a_stop_string_and_is_otherwise_the_same():
    """The stop is what stands in the middle of the longest answer without one."""
    made = engine()
    whole = completions(made, SAMPLING)
    longest = max(whole, key=lambda completion: len(completion.text))
    stop = longest.text[len(longest.text) // 2 :][:2]
    assert longest.text.count(stop) >= 1
    cut = completions(made, replace(SAMPLING, stop=(stop,)))
    assert [c.text for c in cut] == [text_before(c.text, (stop,)) for c in whole]
    for before, after in zip(whole, cut, strict=True):
        assert after.token_ids == before.token_ids[: len(after.token_ids)]
        assert after.finish == ("stop" if stop in before.text else before.finish)
        torch.testing.assert_close(
            after.projections_TK, before.projections_TK[: len(after.token_ids)]
        )


def test_what_is_recorded_are_the_tokens_that_are_kept():
    """Read again by its very tokens, an answer that was cut gives what was recorded of it."""
    made = engine()
    text = max((c.text for c in completions(made, SAMPLING)), key=len)
    done = completions(made, replace(SAMPLING, stop=(text[5:7],)))
    for reading in made.read(answered(done), recording=PROBING):
        for turn in reading.turns:
            assert turn.token_ids == done[reading.index].token_ids
            torch.testing.assert_close(
                turn.projections_TK, done[reading.index].projections_TK, atol=2e-4, rtol=1e-3
            )


def test_an_answer_goes_no_further_than_its_stop_string():
    """Passes through the model: as many as the longest answer takes, not as many as are allowed."""
    made = engine()
    passes = []
    made.model.register_forward_pre_hook(lambda *_: passes.append(1))
    first = completions(made, Sampling(1, 0), Recording())[0].text
    passes.clear()
    some = prompts()[:1]
    list(made.generate(some, Sampling(40, 0, stop=(first,)), seed=1, recording=Recording()))
    assert len(passes) == 1


def test_means_are_not_taken_of_answers_that_may_be_cut():
    with pytest.raises(UsageError, match="record projections instead"):
        completions(engine(), replace(SAMPLING, stop=("x",)), Recording(means=True))


def test_an_empty_stop_string_is_refused():
    with pytest.raises(UsageError, match="stop string is empty"):
        Sampling(stop=("",))


def test_a_fake_engine_stops_too():
    made = FakeEngine(reply=lambda *_: "one two. three")
    (done,) = made.generate(prompts()[:1], Sampling(8, stop=(".",)), seed=1)
    assert (done.text, done.finish) == ("one two", "stop")


def test_settings_without_stop_strings_are_written_as_before_there_were_any():
    """So that plans and the names of a sweep's evaluations of older versions stay equal."""
    plain = Sampling(6, 0.5, 0.9)
    assert plain.settings == {"max_new_tokens": 6, "temperature": 0.5, "top_p": 0.9}
    assert repr(plain) == "Sampling(max_new_tokens=6, temperature=0.5, top_p=0.9)"
    assert replace(plain, stop=("x",)).settings["stop"] == ("x",)


def test_the_tokenizer_of_a_model_decodes_what_is_kept():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("the sea is wide and the sea is deep", add_special_tokens=False)
    cut = cut_at_stop(tokenizer, ids, (" and",))
    assert cut.text == "the sea is wide"
    assert tokenizer.decode(cut.token_ids) == "the sea is wide"
