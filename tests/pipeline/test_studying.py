"""A drift study on a tiny model: planned, talked, resumed after any kill, summed up."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keel import pipeline
from keel.errors import StaleArtifactError, UsageError
from keel.pipeline import DriftStudySettings, study_summary
from keel.prompts import load_user_lines, load_user_personas
from keel.store import RunFolder, StudyFolder, open_run
from keel.studies import TurnPoint, plan_study
from keel.types import NEUTRAL_DOMAIN, Conversation, Message, Sampling
from tests.pipeline.small import files, open_small

SETTINGS = DriftStudySettings(
    domains="coding,therapy",
    people=2,
    topics=1,
    turns=3,
    arms="none,capped",
    sampling=Sampling(max_new_tokens=5, temperature=1.0),
    at_once=4,
)
"""2 x 2 x 1 conversations and 2 neutral ones: two groups."""


def study(
    model: Path, run: RunFolder, settings: DriftStudySettings = SETTINGS, **given: Any
) -> Any:
    return pipeline.study_drift(open_small(model), run, settings, **given)


def kept(run: RunFolder) -> dict[str, bytes]:
    return {n: data for n, data in files(run.path).items() if n.startswith("studies/")}


def turns_of(run: RunFolder, arm: str) -> list[Any]:
    folder = StudyFolder(run, "study")
    return [t for g in range(2) for n in range(3) for t in folder.turns(arm, g, n) or ()]


def test_people_and_neutral_conversations_talk_under_every_arm(calibrated, model_folder):
    made = study(model_folder, calibrated)
    assert made.arms == ("none", "capped")
    assert made.conversations == 6
    for arm in made.arms:
        turns = turns_of(calibrated, arm)
        assert Counter(turn.turn for turn in turns) == {0: 6, 1: 6, 2: 6}
        assert sum(turn.conversation.startswith(NEUTRAL_DOMAIN) for turn in turns) == 6
    path = made.path("none", "coding")
    assert len(path.levels) == 3
    assert path.counts == (2, 2, 2)
    assert len(path.over_neutral) == 3
    assert path.slope_over_neutral is not None
    assert made.path("none", NEUTRAL_DOMAIN).over_neutral == ()


def test_the_same_users_say_the_same_under_every_arm(calibrated, model_folder):
    study(model_folder, calibrated)
    said = [
        [(t.conversation, t.turn, t.message) for t in turns_of(calibrated, arm)]
        for arm in ("none", "capped")
    ]
    assert said[0] == said[1]


def test_each_turn_is_read_with_history_alone_and_by_a_fresh_answer(calibrated, model_folder):
    made = study(model_folder, calibrated)
    paths = [made.path("none", "coding", kind) for kind in ("without history", "fresh answer")]
    with_history = made.path("none", "coding")
    for path in paths:
        assert path.levels[0] == with_history.levels[0]  # nothing stands before the first turn
        assert path.levels[2] != with_history.levels[2]


def test_recorded_levels_are_those_of_the_same_tokens_read_again(calibrated, model_folder):
    study(model_folder, calibrated, replace(SETTINGS, arms="none", words_alone=False))
    engine, run = open_small(model_folder), open_run(calibrated.path)
    from keel.drift import read_drift
    from keel.types import Conversation, Message

    messages: list[Message] = []
    turns = [t for t in turns_of(calibrated, "none") if t.conversation == "coding_1-t01"]
    for turn in turns:
        messages += [
            Message("user", turn.message),
            Message("assistant", turn.answer, turn.token_ids),
        ]
    (read,) = read_drift(engine, [Conversation(tuple(messages))], run.axis, layer=run.axis.layer)
    recorded = [turn.levels[0].mean for turn in turns if turn.levels]
    gap = float(run.axis.gap[run.axis.layer])
    assert recorded == pytest.approx([t.projection for t in read.turns], abs=1e-3 * gap)


def test_conversations_are_placed_in_persona_space_and_its_share_has_a_null(run, model_folder):
    made = study(model_folder, run, replace(SETTINGS, arms="none", words_alone=False))
    assert len(made.path("none", "therapy", "along PC2").levels) == 3
    assert [row.components for row in made.space][:2] == [1, 2]
    assert all(row.count == 18 and row.share.value <= row.most + 1e-9 for row in made.space)
    page = pipeline.report(run).read_text()
    assert "conversations-plane" in page
    assert "random directions, 95 % below" in page


HARM = replace(SETTINGS, arms="none", words_alone=False, embed="none", harm=True, topics=2)
"""Eight conversations and four neutral ones, three groups, and a request after each."""


def test_a_request_follows_the_last_turn_as_a_branch_that_is_judged(run, model_folder):
    made = study(model_folder, run, HARM)
    folder = StudyFolder(run, "study")
    branches = [b for g in range(3) for b in folder.branches("none", g) or ()]
    talks = {talk.planned.id: talk for talk in folder.transcripts("none")}
    assert {b.conversation for b in branches} == {*talks}
    assert all(b.turns == len(talks[b.conversation].turns) == 3 for b in branches)
    assert [row.domain for row in made.harm] == ["coding", "therapy", NEUTRAL_DOMAIN]
    assert [row.count for row in made.harm] == [4, 4, 4]
    assert "A request after the last turn" in pipeline.report(run).read_text()


def test_harm_can_be_asked_for_later_and_after_a_kill_to_the_same_end(
    run, model_folder, tmp_path, monkeypatch
):
    shutil.copytree(run.path, tmp_path / "twin")
    twin = RunFolder(tmp_path / "twin")
    study(model_folder, run, HARM)
    study(model_folder, twin, replace(HARM, harm=False))
    own = StudyFolder.commit_branches

    def killed(self: Any, arm: str, group: int, branches: Any) -> None:
        if group == 1:
            raise Killed
        own(self, arm, group, branches)

    monkeypatch.setattr(StudyFolder, "commit_branches", killed)
    with pytest.raises(Killed):
        study(model_folder, twin, HARM)
    monkeypatch.setattr(StudyFolder, "commit_branches", own)
    study(model_folder, twin, HARM)
    assert kept(twin) == kept(run)


def test_a_judge_that_there_is_not_is_refused_before_anything_is_answered(run, model_folder):
    with pytest.raises(UsageError, match="oracle"):
        study(model_folder, run, replace(HARM, judge="oracle"))
    assert not kept(run)


def test_a_long_conversation_goes_on_over_topics_and_neutral_ones_are_as_long():
    long = replace(SETTINGS, is_long=True, turns=100)
    plan = plan_study(long, load_user_personas(), load_user_lines())
    assert all(len(talk.script) == 100 for talk in plan.conversations)
    for talk in plan.conversations:
        openings = [line.text for line in talk.script if line.source.endswith("/opening")]
        assert len(openings) == len(set(openings))
        assert bool(openings) == (talk.domain != NEUTRAL_DOMAIN)


@pytest.mark.parametrize("is_long", [True, False])
def test_conversations_end_where_the_context_is_full_and_a_warning_says_so(
    run, model_folder, is_long
):
    """Its room is that of the shortest second turn's prompt and an answer: no third turn fits."""
    long = replace(SETTINGS, arms="none", words_alone=False, embed="none", is_long=is_long)
    engine = open_small(model_folder)
    whole = pipeline.study_drift(engine, run, replace(long, name="whole"))
    talks = list(StudyFolder(run, "whole").transcripts("none"))
    third = [
        len(engine.template.prompt_ids(Conversation(tuple(before(talk, 2))))) for talk in talks
    ]
    engine.context_tokens = min(third) + 4  # an answer takes 5
    made = pipeline.study_drift(engine, run, long)
    assert not any("context was full" in warning for warning in whole.warnings)
    assert any(
        "6 of 6 conversations ended before turn 3, since the model's context was full" in warning
        for warning in made.warnings
    )
    assert "context was full" in pipeline.report(run).read_text()


def before(talk: Any, turn: int) -> list[Message]:
    """What stands before a turn's answer."""
    said: list[Message] = []
    for each in talk.turns[:turn]:
        said += [Message("user", each.message), Message("assistant", each.answer, each.token_ids)]
    return [*said, Message("user", talk.turns[turn].message)]


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.mark.parametrize("draw", range(5))
def test_killed_at_any_moment_it_ends_like_an_uninterrupted_study(
    calibrated, model_folder, tmp_path, draw, monkeypatch
):
    shutil.copytree(calibrated.path, tmp_path / "twin")
    twin = RunFolder(tmp_path / "twin")
    study(model_folder, calibrated)
    units = 2 * 2 * 3 + 2 * 2 * 2  # arms x groups x turns, and those without history
    left = random.Random(draw).randrange(1, units)
    calls: Counter[str] = Counter()
    for name in ("commit_turns", "commit_alone"):

        def commit(
            self: Any, *given: Any, name: str = name, own: Any = getattr(StudyFolder, name)
        ) -> None:
            if len(calls) == left:
                raise Killed
            key = f"{name} {given[:3]}"
            assert not calls[key], "answered twice"
            calls[key] += 1
            own(self, *given)

        monkeypatch.setattr(StudyFolder, name, commit)
    with pytest.raises(Killed):
        study(model_folder, twin)
    left = units + 1
    study(model_folder, twin)
    assert len(calls) == units
    assert kept(twin) == kept(calibrated)


def test_a_finished_study_is_in_the_manifest_and_the_report(calibrated, model_folder):
    study(model_folder, calibrated)
    assert set(open_run(calibrated.path).studies()) == {"study"}
    page = pipeline.report(calibrated).read_text()
    assert "Conversations" in page
    assert "conversations-domains" in page


def test_a_tracker_is_sent_a_study_s_levels_slopes_and_differences(calibrated, model_folder):
    """Of a run with a study it had the maps and the floors alone."""
    made = study(model_folder, calibrated)
    sent = pipeline.tracked_run(open_run(calibrated.path), calibrated.path / "report.html")
    path = made.path("capped", "coding")
    assert sent.series["study/study/coding/capped"] == [level.value for level in path.levels]
    assert sent.numbers["study/study/conversations"] == 6
    before = "study/study/coding/capped"
    assert sent.numbers[f"{before}/last_turn_gaps/low"] == path.levels[-1].low
    assert path.slope is not None
    assert path.slope_over_neutral is not None
    assert sent.numbers[f"{before}/slope_gaps_per_turn"] == path.slope.value
    over = sent.numbers[f"{before}/slope_over_neutral_gaps_per_turn"]
    assert over == path.slope_over_neutral.value
    (difference,) = (each for each in made.differences if each.domain == "coding")
    assert sent.numbers[f"{before}/last_turn_difference_gaps"] == difference.last_turn.value


def test_levels_by_turn_are_those_of_a_studys_neutral_conversations(calibrated, model_folder):
    made = study(model_folder, calibrated)
    run = open_run(calibrated.path)
    levels = run.turn_levels(made.layer)
    neutral = made.path("none", NEUTRAL_DOMAIN)
    assert levels.means == tuple(level.value for level in neutral.levels)
    assert levels.counts == (2, 2, 2)
    assert levels.fits_system(None)
    assert not levels.fits_system("Be brief.")
    # Two values' standard deviation is their distance over the root of 2; Student's t is 12.706.
    assert levels.spreads[0] == pytest.approx(
        (neutral.levels[0].high - neutral.levels[0].value) / 12.706 * 2**0.5, rel=1e-3
    )
    assert run.turn_levels(0 if made.layer else 1) is None


def test_with_people_enough_what_moves_the_model_is_predicted_from_words(run, model_folder):
    alone = replace(SETTINGS, arms="none", words_alone=False, permutations=9)
    made = study(model_folder, run, alone)
    rows = {(row.target, row.columns): row for row in made.prediction}
    assert rows["level", "words"].null95 is not None
    assert rows["change", "what words add to these"].count == 8  # 4 conversations, 2 later turns
    assert rows["level", "prompt's last token"].null95 is not None
    assert made.prompt_correlation is not None
    assert "last token correlates with that of the answer" in pipeline.report(run).read_text()
    assert not study(model_folder, run, replace(alone, embed="none")).prediction


def test_the_report_holds_conversations_to_be_read_with_a_needle_per_turn(run, model_folder):
    study(model_folder, run, replace(SETTINGS, arms="none", words_alone=False))
    page = pipeline.report(run).read_text()
    assert "coding_1-t01, none" in page
    assert "script:therapy/opening" in page
    assert "conversations-prediction" in page


def test_an_arm_can_be_added_later_to_the_same_result(calibrated, model_folder, tmp_path):
    shutil.copytree(calibrated.path, tmp_path / "twin")
    twin = RunFolder(tmp_path / "twin")
    study(model_folder, calibrated)
    study(model_folder, twin, replace(SETTINGS, arms="none"))
    study(model_folder, twin)
    assert kept(twin) == kept(calibrated)


def test_a_study_begun_with_other_inputs_is_refused_until_it_is_overwritten(run, model_folder):
    settings = replace(SETTINGS, arms="none", words_alone=False)
    study(model_folder, run, settings)
    longer = replace(settings, turns=4)
    with pytest.raises(StaleArtifactError, match="turns 3 → 4"):
        study(model_folder, run, longer)
    assert study(model_folder, run, longer, overwrite=True).turns == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"domains": "cooking"}, "cooking"),
        ({"people": 6}, "5 people"),
        ({"topics": 21}, "20 topics"),
        ({"turns": 40}, "27 turns"),
        ({"layers": (99,)}, "99"),
        ({"name": "a/b"}, "a/b"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_is_kept(run, model_folder, change, said):
    with pytest.raises(UsageError, match=said):
        study(model_folder, run, replace(replace(SETTINGS, arms="none"), **change))
    assert not kept(run)


def test_thinking_is_no_part_of_an_answers_length(run, model_folder, monkeypatch):
    """Seven tokens of thinking before each answer counted as length of the answer, by which the
    next one's level was predicted."""
    engine = open_small(model_folder)
    generate = engine.generate
    thought = tuple(
        engine.tokenizer("<think>a ghost and a pirate</think>", add_special_tokens=False).input_ids
    )

    def thinking(*given: Any, **how: Any) -> Any:
        for answer in generate(*given, **how):
            yield replace(answer, token_ids=(*thought, *answer.token_ids))

    points: list[TurnPoint] = []
    monkeypatch.setattr(engine, "generate", thinking)
    monkeypatch.setattr(
        study_summary, "conversation_paths", lambda given: points.extend(given) or ()
    )
    settings = replace(SETTINGS, arms="none", turns=2, words_alone=False, embed="none")
    pipeline.study_drift(engine, run, settings)
    by_turn = {(p.conversation, p.turn): p.tokens for p in points}
    for turn in turns_of(run, "none"):
        assert by_turn[turn.conversation, turn.turn] == len(turn.token_ids) - len(thought)
