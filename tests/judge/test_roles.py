"""A grader as a judge of rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from keel.errors import JudgeError, UsageError
from keel.judge import RubricJudge
from keel.prompts import read_rubrics
from keel.types import (
    Case,
    Conversation,
    Grader,
    Judgement,
    Message,
    Prompt,
    Rollout,
    Rubric,
    TraitSide,
    Verdict,
)

ROLE, TRAIT = read_rubrics()["role"], read_rubrics()["trait"]
KIND = TraitSide("kind", True).role
ROLES = {"pirate": ("Sails for plunder.", "Talks of the sea.")}
TRAITS = {"kind": ("Is good to others.", "100 is warm, 0 is cold.")}


@dataclass
class Told(Grader):
    """Gives each case the score that stands in its answer; `?` cannot be parsed."""

    name: str = "told"
    cases: list[Case] = field(default_factory=list)

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        for case in cases:
            self.cases.append(case)
            said = case.conversation.messages[-1].content
            status: Literal["ok", "unparsed", "failed"] = "ok"
            if said in ("unparsed", "failed"):
                status = "unparsed" if said == "unparsed" else "failed"
                yield Verdict(case.id, status=status)
            else:
                yield Verdict(case.id, said, float(said))


def rollout(role: str, said: str, number: int = 0) -> Rollout:
    system = () if role == "default" else (Message("system", "You play."),)
    conversation = Conversation((*system, Message("user", "How are you?")))
    return Rollout(Prompt(f"{role}/p0/q{number}", conversation, role), said, (1,), "stop")


def judge(grader: Told | None = None) -> RubricJudge:
    return RubricJudge(grader or Told(), ROLE, TRAIT, ROLES, TRAITS)


@pytest.mark.parametrize(
    ("said", "label"), [("0", "none"), ("1", "none"), ("2", "somewhat"), ("3", "fully")]
)
def test_a_role_is_played_fully_at_3_somewhat_at_2_and_else_not(said: str, label: str):
    (found,) = judge().judge([rollout("pirate", said)])
    assert found == Judgement("pirate/p0/q0", label, float(said))  # type: ignore[arg-type]


def test_a_trait_keeps_its_score_of_0_to_100():
    found = judge().judge([rollout(KIND, said, n) for n, said in enumerate(("0", "50", "100"))])
    assert [(one.score, one.label) for one in found] == [
        (0, "none"),
        (50, "somewhat"),
        (100, "fully"),
    ]


def test_the_default_plays_no_role_and_no_judge_is_asked():
    grader = Told()
    (found,) = judge(grader).judge([rollout("default", "3")])
    assert (found.label, found.score, grader.cases) == ("unjudged", None, [])


def test_the_judge_is_told_what_a_role_is_and_by_what_it_is_known():
    grader = Told()
    list(judge(grader).judge([rollout("pirate", "3")]))
    assert grader.cases[0].fields == {
        "role": "pirate",
        "description": "Sails for plunder.",
        "role_rubric": "Talks of the sea.",
    }


def test_of_a_role_that_nobody_described_it_is_told_the_prompt():
    grader = Told()
    list(judge(grader).judge([rollout("night_owl", "3")]))
    assert grader.cases[0].fields["role"] == "night owl"
    assert "You play." in grader.cases[0].fields["description"]


def test_a_trait_that_nobody_described_cannot_be_judged():
    with pytest.raises(UsageError, match="nothing is known of the trait 'vain'.*--traits"):
        list(judge().judge([rollout(TraitSide("vain", False).role, "3")]))


@pytest.mark.parametrize("status", ["unparsed", "failed"])
def test_what_could_not_be_judged_says_so_and_plays_nothing(status: str):
    """One of two hundred: too few to stop for."""
    rollouts = [rollout("pirate", status if n == 0 else "3", n) for n in range(200)]
    found = {one.rollout_id: one for one in judge().judge(rollouts)}
    assert found["pirate/p0/q0"] == Judgement("pirate/p0/q0", "none", None, status)  # type: ignore[arg-type]


def test_too_many_that_could_not_be_judged_stop_it_after_giving_what_there_is():
    rollouts = [rollout("pirate", "failed" if n % 2 else "3", n) for n in range(20)]
    found = []
    with pytest.raises(JudgeError, match="10 of 20"):
        for one in judge().judge(rollouts):
            found.append(one)  # noqa: PERF402
    assert len(found) == 20


def test_roles_and_traits_go_by_their_own_rubrics():
    rollouts = [rollout("pirate", "3"), rollout(KIND, "70"), rollout("default", "1")]
    asked = judge().cases(rollouts)
    assert [(rubric.name, len(cases)) for rubric, cases in asked] == [("role", 1), ("trait", 1)]


def test_another_rubric_or_description_is_another_judge():
    """Else its judgements would be taken for those that are there."""
    plain = judge()
    names = {
        plain.name,
        replace(plain, role_rubric=replace(ROLE, version=2)).name,
        replace(plain, roles={"pirate": ("Sells parrots.", "")}).name,
        replace(plain, grader=Told("other")).name,
    }
    assert len(names) == 4
    assert judge().name == plain.name
