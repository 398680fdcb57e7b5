"""Conversations that exist, read and summed up as a study."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keel import pipeline
from keel.drift import read_drift
from keel.errors import StaleArtifactError, UsageError
from keel.pipeline import DriftStudySettings
from keel.store import StudyFolder, open_run
from keel.types import Conversation, Message, Sampling
from tests.pipeline.small import open_small

SETTINGS = DriftStudySettings(name="logs", embed="none")


def talk(id: str, turns: int) -> Conversation:
    said = [
        message
        for n in range(turns)
        for message in (Message("user", f"{id} {n}?"), Message("assistant", f"It is {n} {id}."))
    ]
    return Conversation(tuple(said), id)


TALKS = [("sales", talk("a", 3)), ("sales", talk("b", 2)), ("support", talk("c", 3))]


def test_given_conversations_are_read_turn_by_turn_and_without_their_history(run, model_folder):
    made = pipeline.study_transcripts(open_small(model_folder), run, TALKS, SETTINGS)
    assert made.path("given", "sales").counts == (2, 2)  # not all reach a third turn
    assert len(made.path("given", "support", "without history").levels) == 3
    assert "no neutral conversations" in made.warnings[0]
    assert set(open_run(run.path).studies()) == {"logs"}
    page = pipeline.report(run).read_text()
    assert "It is 2 c." in page
    assert "c, given: support" in page  # each was called plain tasks


def test_given_neutral_conversations_are_what_the_others_are_held_against(run, model_folder):
    """A warning said that there were none, whatever was given."""
    talks = [*TALKS, *(("neutral", talk(f"plain {n}", 3)) for n in range(2))]
    made = pipeline.study_transcripts(open_small(model_folder), run, talks, SETTINGS)
    assert not any("neutral conversations" in warning for warning in made.warnings)
    assert made.path("given", "neutral").counts == (2, 2, 2)
    assert made.path("given", "sales").over_neutral
    assert not made.path("given", "neutral").over_neutral


def test_few_given_conversations_are_said_without_an_option_that_they_refuse(run, model_folder):
    made = pipeline.study_transcripts(open_small(model_folder), run, TALKS[:1], SETTINGS)
    assert any("1 conversations say nearly nothing" in warning for warning in made.warnings)
    assert not any("--people" in warning for warning in made.warnings)


def test_their_levels_are_those_that_drift_reads(run, model_folder):

    engine = open_small(model_folder)
    pipeline.study_transcripts(engine, run, TALKS, SETTINGS)
    axis = open_run(run.path).axis
    (reading,) = read_drift(engine, [TALKS[0][1]], axis)
    kept = next(iter(StudyFolder(run, "logs").transcripts("given")))
    assert [turn.levels[0].mean for turn in kept.turns] == pytest.approx(
        [turn.projection for turn in reading.turns], abs=1e-3
    )


def test_the_token_before_each_given_answer_foretells_it(run, model_folder):
    """Eight conversations, so that its correlation can be said; each level is the prompt's own."""
    engine = open_small(model_folder)
    talks = [("sales", talk(f"a{n}", 3)) for n in range(8)]
    made = pipeline.study_transcripts(engine, run, talks, SETTINGS)
    axis = open_run(run.path).axis
    direction_D = axis.direction[axis.layer]
    kept = next(iter(StudyFolder(run, "logs").transcripts("given")))
    before = talks[0][1].messages[:3]
    prompt = torch.tensor([engine.template.prompt_ids(Conversation(before))])
    with torch.inference_mode():
        hidden = engine.model(prompt, output_hidden_states=True).hidden_states[axis.layer + 1]
    assert kept.turns[1].levels[0].prompt == pytest.approx(
        float(hidden[0, -1] @ direction_D), rel=1e-3, abs=1e-4
    )
    assert made.prompt_correlation is not None


def test_a_request_follows_each_given_conversation_under_every_arm(calibrated, model_folder):
    """A conversation whose user had the last word goes on behind its last answer."""
    unanswered = TALKS[1][1].with_user("And then?")
    talks = [TALKS[0], ("sales", unanswered), TALKS[2]]
    sampling = Sampling(max_new_tokens=6)
    asked = replace(SETTINGS, harm=True, arms="none,capped", sampling=sampling)
    pipeline.study_transcripts(open_small(model_folder), calibrated, talks, SETTINGS)
    made = pipeline.study_transcripts(open_small(model_folder), calibrated, talks, asked)
    rates = [(row.arm, row.domain, row.count) for row in made.harm]
    assert sorted(rates) == [
        (arm, domain, count)
        for arm in ("capped", "none")
        for domain, count in (("sales", 2), ("support", 1))
    ]
    kept = StudyFolder(calibrated, "logs").branches("capped", 0)
    assert [(branch.conversation, branch.turns) for branch in kept] == [
        ("a", 3),
        ("b", 2),
        ("c", 3),
    ]
    assert made.arms == ("given",)
    assert "A request after the last turn" in pipeline.report(calibrated).read_text()


def test_a_request_that_does_not_fit_is_not_put_and_said(run, model_folder):
    """The context is that of the longer conversation, read before."""
    engine = open_small(model_folder)
    talks = [TALKS[1], ("long", talk("long", 20))]
    asked = replace(SETTINGS, harm=True, sampling=Sampling(max_new_tokens=6), words_alone=False)
    pipeline.study_transcripts(engine, run, talks, replace(asked, harm=False))
    engine.context_tokens = len(engine.template.prompt_ids(talks[1][1].with_user("")))
    made = pipeline.study_transcripts(engine, run, talks, asked)
    assert [(row.domain, row.count) for row in made.harm] == [("sales", 1)]
    assert any("1 of 2 requests did not fit" in warning for warning in made.warnings)


def test_arms_are_refused_where_nothing_is_answered(run, model_folder):
    with pytest.raises(UsageError, match="only read; leave out --arms, or add --harm"):
        pipeline.study_transcripts(
            open_small(model_folder), run, TALKS, replace(SETTINGS, arms="none,capped")
        )


def test_two_conversations_of_one_name_are_refused(run, model_folder):
    with pytest.raises(UsageError, match="two conversations are called 'a'"):
        pipeline.study_transcripts(open_small(model_folder), run, [TALKS[0], TALKS[0]], SETTINGS)


def test_other_conversations_under_the_same_name_are_refused(run, model_folder):
    engine = open_small(model_folder)
    pipeline.study_transcripts(engine, run, TALKS, SETTINGS)
    with pytest.raises(StaleArtifactError, match="begun with other inputs") as refused:
        pipeline.study_transcripts(engine, run, TALKS[:2], SETTINGS)
    assert "--overwrite" in str(refused.value)
    again = replace(SETTINGS, name="others")
    assert pipeline.study_transcripts(engine, run, TALKS[:2], again).conversations == 2
