"""Answers cut at the token limit are counted by every stage that measures them, and warned of."""

from __future__ import annotations

from dataclasses import replace

from keel import pipeline
from keel.report import render_markdown, report_account
from keel.settings import DriftSettings
from keel.store import RunFolder
from keel.types import Conversation, Message, Sampling
from keel.words import percent
from tests.pipeline.small import ROLLOUTS

SHORT = DriftSettings(sampling=Sampling(max_new_tokens=1, temperature=1.0))
"""A tiny model's answers do not end at their first token."""


def told(folder: RunFolder) -> str:
    return render_markdown(report_account(pipeline.report_inputs(folder.read())))


def test_a_calibration_says_how_many_of_its_answers_were_cut(calibrated: RunFolder):
    """It read all answers of so small a run, most of them cut at six tokens."""
    run = calibrated.read()
    cut = sum(rollout.finish == "length" for rollout in run.rollouts())
    assert cut > ROLLOUTS / 2
    assert run.calibration.cut_share == cut / ROLLOUTS
    share = percent(cut / ROLLOUTS)
    assert any(f"{share} of the answers read are cut" in text for text in run.calibration.warnings)
    assert "of the answers were cut at the token limit" in told(calibrated)


def test_a_replay_says_of_each_answer_whether_it_was_cut(engine, calibrated: RunFolder):
    conversation = Conversation((Message("user", "Who are you?"), Message("user", "Where to?")))
    made = pipeline.replay_conversation(engine, calibrated, conversation, SHORT)
    answers = [arm for turn in made.turns for arm in (turn.uncapped, turn.capped)]
    assert answers
    assert all(answer.is_cut for answer in answers)
    assert calibrated.read().replays() == (made,)
    assert f"{len(answers)} of {len(answers)} answers were cut" in told(calibrated)
    assert "levels are of how answers begin" in told(calibrated)


def test_turns_that_were_given_are_not_known_to_be_cut(engine, calibrated: RunFolder):
    conversation = Conversation((Message("user", "Who?"), Message("assistant", "A model.")))
    (reading,) = pipeline.drift(engine, calibrated, [conversation])
    assert [turn.is_cut for turn in reading.turns] == [None]


def test_half_or_fewer_cut_answers_are_counted_without_a_warning(engine, calibrated: RunFolder):
    conversation = Conversation((Message("user", "Who are you?"), Message("user", "Where to?")))
    made = pipeline.replay_conversation(engine, calibrated, conversation, SHORT)
    turns = tuple(replace(t, capped=replace(t.capped, is_cut=False)) for t in made.turns)
    calibrated.save_drift(replace(made, turns=turns))
    assert f"{len(turns)} of {2 * len(turns)} answers were cut at the token limit." in told(
        calibrated
    )
