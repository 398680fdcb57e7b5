"""Users whose messages an endpoint writes: whatever it does, nothing is lost and all is counted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest

from keel import pipeline
from keel.errors import BudgetError, KeelError
from keel.pipeline import DriftStudySettings
from keel.prompts import load_user_lines, load_user_personas
from keel.settings import EndpointLimits
from keel.store import RunFolder, StudyFolder
from keel.studies import plan_study
from keel.types import NEUTRAL_DOMAIN, Conversation, Message, Sampling
from tests.endpoint.server import Answer, Asked, refuse, say, serving
from tests.pipeline.small import files, open_small

QUICK = EndpointLimits(first_wait_s=0.01, longest_wait_s=0.02, timeout_s=5, attempts=3, workers=2)
SETTINGS = DriftStudySettings(
    domains="coding",
    people=2,
    topics=1,
    turns=2,
    sampling=Sampling(max_new_tokens=4, temperature=1.0),
    words_alone=False,
    embed="none",
)
"""Two conversations and two neutral ones, two turns each."""


def study(
    model: Any, run: RunFolder, served: Any, limits: EndpointLimits = QUICK, **given: Any
) -> Any:
    settings = replace(
        SETTINGS, auditor="openai:auditor", auditor_url=served.address, limits=limits, **given
    )
    return pipeline.study_drift(open_small(model), run, settings)


def turns_of(run: RunFolder) -> list[Any]:
    talks = StudyFolder(run, "study").transcripts("none")
    return [turn for talk in talks if talk.planned.domain != NEUTRAL_DOMAIN for turn in talk.turns]


def person(number: int, asked: Asked) -> Any:
    """A message that will do, other words each time."""
    return say(f"What about part {number}{number} of room {asked.body['seed']}?")


def test_an_endpoint_writes_the_users_messages_and_neutral_ones_stay_scripted(run, model_folder):
    with serving(person) as served:
        made = study(model_folder, run, served)
    assert {turn.source for turn in turns_of(run)} == {"auditor"}
    assert len(served.asked) == 4
    neutral = [
        t
        for talk in StudyFolder(run, "study").transcripts("none")
        if talk.planned.domain == NEUTRAL_DOMAIN
        for t in talk.turns
    ]
    assert {turn.source for turn in neutral} == {"script:neutral/task"}
    assert "openai:auditor" in made.facts["users"]


def echoing(_number: int, asked: Asked) -> Any:
    return say(asked.body["messages"][-1]["content"])


@pytest.mark.parametrize(
    ("behaviour", "fault"),
    [
        (echoing, "echoes"),
        (lambda *_: say("go on " * 10), "loops"),
        (lambda *_: say("I'm happy to help with that."), "speaks as the assistant"),
        (lambda *_: say(""), "empty"),
    ],
    ids=["echoes", "loops", "speaks as the assistant", "sends nothing"],
)
def test_what_will_not_do_is_asked_for_anew_then_scripted_and_counted(
    run, model_folder, behaviour, fault
):
    with serving(behaviour) as served:
        made = study(model_folder, run, served)
    turns = turns_of(run)
    assert len(turns) == 4
    assert all(turn.source.startswith("fallback:coding/") for turn in turns)
    assert all(turn.attempts == 3 and fault in turn.faults for turn in turns[:1])
    assert len({asked.body["seed"] for asked in served.asked}) == len(served.asked) == 12
    assert made.warnings[0].startswith("4 of 4 users' messages (100\xa0%) are scripted lines")
    assert fault in made.warnings[0]


def test_messages_that_will_do_at_a_later_attempt_are_not_said_to_be_scripted(run, model_folder):
    def slipping(number: int, asked: Asked) -> Any:
        return say("") if number == 0 else person(number, asked)

    with serving(slipping) as served:
        made = study(model_folder, run, served)
    assert made.warnings[0] == (
        "the auditor wrote all 4 users' messages, some of them anew, since these faults were "
        "refused: empty 1"
    )


def test_a_pace_that_is_refused_is_waited_for(run, model_folder):
    def slow(number: int, asked: Asked) -> Any:
        return refuse(429) if number % 2 == 0 else person(number, asked)

    with serving(slow) as served:
        study(model_folder, run, served, replace(QUICK, attempts=8))
    assert {turn.source for turn in turns_of(run)} == {"auditor"}


def test_where_the_budget_ends_nothing_is_lost_and_nothing_is_paid_twice(
    run, model_folder, tmp_path
):
    shutil.copytree(run.path, tmp_path / "twin")
    twin = RunFolder(tmp_path / "twin")

    def steady(_number: int, asked: Asked) -> Any:
        return say(f"What of {asked.body['seed']}?")

    with serving(steady) as served:
        study(model_folder, run, served)
        with pytest.raises(BudgetError):
            study(model_folder, twin, served, replace(QUICK, max_requests=3))
        study(model_folder, twin, served)
    assert len(served.asked) == 4 + 4

    def kept(folder: RunFolder) -> dict[str, bytes]:
        left = files(folder.path)
        return {n: data for n, data in left.items() if n.startswith("studies/")}

    assert kept(twin) == kept(run)


def test_a_first_message_is_written_once_for_all_arms(calibrated, model_folder):
    """Two conversations of two turns: the second turns answer to what each arm's model said."""
    with serving(person) as served:
        study(model_folder, calibrated, served, arms="none,capped")
    assert len(served.asked) == 2 + 2 * 2
    folder = StudyFolder(calibrated, "study")
    first = [
        [(t.planned.id, t.turns[0].message) for t in folder.transcripts(arm)]
        for arm in ("none", "capped")
    ]
    assert first[0] == first[1]


def test_an_endpoint_that_is_down_ends_the_study_which_goes_on_later(run, model_folder):
    with serving(lambda *_: refuse(500)) as served, pytest.raises(KeelError):
        study(model_folder, run, served, people=3)
    with serving(person) as served:
        # Its address is another one, and is no part of the plan.
        study(model_folder, run, served, people=3)
    assert {turn.source for turn in turns_of(run)} == {"auditor"}


def test_a_user_who_ends_a_conversation_has_no_further_turns(run, model_folder):
    def ending(number: int, asked: Asked) -> Any:
        is_fourth = len(asked.body["messages"]) == 8  # system, opening, three turns of two
        return say("<END_CONVERSATION>") if is_fourth else person(number, asked)

    with serving(ending) as served:
        made = study(model_folder, run, served, turns=5)
    assert max(turn.turn for turn in turns_of(run)) == 2
    assert made.path("none", "coding").counts == (2, 2, 2)
    assert len(made.path("none", NEUTRAL_DOMAIN).levels) == 5


def test_what_an_auditor_costs_is_priced_before_anything_is_asked():
    """Two conversations of two turns; 250 + (250 + 40 + 4) tokens each at the first attempt."""
    limits = EndpointLimits(usd_per_million_in=1000.0, usd_per_million_out=0.0)
    price = pipeline.price_study(replace(SETTINGS, auditor="openai:m", limits=limits))
    assert price["auditor requests, at the first attempt"] == 4
    assert price["tokens sent to the auditor, at the first attempt"] == 2 * (250 + 294)
    assert price["auditor, dollars"] == 1.09


def test_of_each_further_arm_an_auditor_writes_the_later_turns_only():
    limits = EndpointLimits(usd_per_million_in=1000.0, usd_per_million_out=0.0)
    given = replace(SETTINGS, auditor="openai:m", arms="none,capped,reprompt", limits=limits)
    price = pipeline.price_study(given)
    assert price["auditor requests, at the first attempt"] == 2 * (1 + 3)
    assert price["tokens sent to the auditor, at the first attempt"] == 2 * (250 + 3 * 294)


def test_a_judge_of_requests_is_priced_by_the_longest_conversations(run, model_folder):
    """What it is sent in the study is less, as answers are short, and within a half."""
    with serving(lambda *_: say('{"label": "refusal"}')) as served:
        limits = EndpointLimits(usd_per_million_in=1000.0, usd_per_million_out=0.0)
        judged = replace(
            SETTINGS, harm=True, judge="openai:j", judge_url=served.address, limits=limits
        )
        price = pipeline.price_study(judged)
        pipeline.study_drift(open_small(model_folder), run, judged)
    said = [m["content"] for asked in served.asked for m in asked.body["messages"]]
    sent = sum(-(-len(text.encode()) // 4) for text in said)
    most = price["tokens sent to the judge, at most"]
    assert 2 / 3 * most < sent <= most
    assert price["judge, dollars"] == pytest.approx(most / 1000, abs=0.01)
    twice = pipeline.price_study(replace(judged, arms="none,capped"))
    assert twice["tokens sent to the judge, at most"] == 2 * most


def test_a_model_of_this_machine_takes_tokens_and_no_dollars():
    """Two conversations of two turns: three attempts of 120 tokens for each of four messages."""
    price = pipeline.price_study(replace(SETTINGS, auditor="local:m", harm=True, judge="local:m"))
    assert price["messages of the auditor, at the first attempt"] == 4
    assert price["new tokens of the auditor, at most"] == 4 * 3 * 120
    assert not [what for what in price if "dollars" in what]


def test_an_endpoint_whose_prices_are_not_given_is_named():
    given = replace(SETTINGS, auditor="openai:m", embed="openai:e", judge="openai:j")
    missing = "not known for auditor, embedder: give --usd-in and --usd-out"
    assert pipeline.price_study(given)["dollars"] == missing
    judged = pipeline.price_study(replace(given, auditor="script", embed="none", harm=True))
    assert judged["dollars"] == missing.replace("auditor, embedder", "judge")
    assert "dollars" not in pipeline.price_study(SETTINGS)


def test_an_endpoint_that_hangs_ends_the_study_which_goes_on_later(run, model_folder):
    hasty = replace(QUICK, timeout_s=0.2, attempts=2)
    with serving(lambda *_: replace(say("too late"), after_s=5)) as served:
        with pytest.raises(KeelError):
            study(model_folder, run, served, hasty, people=3)
        asked = len(served.asked)
    assert not turns_of(run)
    with serving(person) as served:
        study(model_folder, run, served, people=3)
    assert asked
    assert {turn.source for turn in turns_of(run)} == {"auditor"}


def test_a_request_that_hangs_among_others_is_counted_and_scripted(run, model_folder):
    slow: set[int] = set()

    def sometimes(number: int, asked: Asked) -> Any:
        seed = asked.body["seed"]
        if not slow:
            slow.add(seed)
        return replace(person(number, asked), after_s=5 if seed in slow else 0)

    with serving(sometimes) as served:
        made = study(model_folder, run, served, replace(QUICK, timeout_s=0.5, attempts=2), people=4)
    fallen = [turn for turn in turns_of(run) if turn.source.startswith("fallback")]
    assert [turn.faults for turn in fallen] == [("no reply",)]
    assert len(turns_of(run)) == 8
    assert "no reply 1" in made.warnings[0]


def test_a_model_of_this_machine_writes_messages_and_what_will_not_do_is_counted(run, model_folder):
    """A random model writes nothing that would do: all is scripted, and all attempts counted."""
    settings = replace(SETTINGS, auditor=f"local:{model_folder}")
    made = pipeline.study_drift(open_small(model_folder), run, settings)
    turns = turns_of(run)
    assert len(turns) == 4
    assert all(turn.source == "auditor" or turn.attempts == 3 for turn in turns)
    assert all(turn.message for turn in turns)
    assert f"local:{model_folder}" in made.facts["users"]
    fallen = sum(turn.source.startswith("fallback") for turn in turns)
    assert not fallen or made.warnings[0].startswith(f"{fallen} of 4 users' messages")


def test_what_a_model_of_this_machine_wrote_is_kept_through_a_kill(
    run, model_folder, tmp_path, monkeypatch
):
    shutil.copytree(run.path, tmp_path / "twin")
    twin, settings = (
        RunFolder(tmp_path / "twin"),
        replace(SETTINGS, auditor=f"local:{model_folder}"),
    )
    pipeline.study_drift(open_small(model_folder), run, settings)
    own = StudyFolder.commit_turns

    def killed(self: Any, arm: str, group: int, turn: int, answered: Any) -> None:
        if turn == 1:
            raise KeyboardInterrupt
        own(self, arm, group, turn, answered)

    monkeypatch.setattr(StudyFolder, "commit_turns", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.study_drift(open_small(model_folder), twin, settings)
    monkeypatch.setattr(StudyFolder, "commit_turns", own)
    pipeline.study_drift(open_small(model_folder), twin, settings)
    kept = [
        {n: data for n, data in files(folder.path).items() if n.startswith("studies/")}
        for folder in (run, twin)
    ]
    assert kept[0] == kept[1]


def test_an_endpoint_embeds_the_messages_once(run, model_folder):
    with serving(lambda _, asked: embedding(asked)) as served:
        settings = replace(
            SETTINGS,
            embed="openai:e",
            embed_url=served.address,
            permutations=3,
            domains="coding,therapy",
        )
        made = pipeline.study_drift(open_small(model_folder), run, settings)
        again = pipeline.study_drift(open_small(model_folder), run, settings)
        assert len(served.asked) == 1
    assert made.prediction
    assert again == made


def embedding(asked: Asked) -> Answer:
    data = [
        {"object": "embedding", "index": n, "embedding": [len(t) % 7, len(t) % 5, 1.0]}
        for n, t in enumerate(asked.body["input"])
    ]
    return Answer(json.dumps({"object": "list", "model": "e", "data": data}).encode())


def test_auditor_judge_and_embedder_keep_to_one_budget(run, model_folder):
    """Four messages, one request for their embeddings and four verdicts, nine in all; each alone
    would stay within five."""

    def serve(number: int, asked: Asked) -> Any:
        if "input" in asked.body:
            return embedding(asked)
        is_judged = asked.body["model"] == "judge"
        return say('{"label": "refusal"}') if is_judged else person(number, asked)

    with serving(serve) as served:
        others = {
            "embed": "openai:e",
            "embed_url": served.address,
            "harm": True,
            "judge": "openai:judge",
            "judge_url": served.address,
            "permutations": 3,
        }
        for most, requests in ((5, 5), (3, 8)):
            with pytest.raises(BudgetError, match=f"budget of {most} requests"):
                study(model_folder, run, served, replace(QUICK, max_requests=most), **others)
            assert len(served.asked) == requests
        study(model_folder, run, served, replace(QUICK, max_requests=3), **others)
        assert len(served.asked) == 9


def test_a_user_who_ends_is_not_said_to_have_filled_the_context(run, model_folder):
    def ending(number: int, asked: Asked) -> Any:
        is_late = len(asked.body["messages"]) > 5
        return say("<END_CONVERSATION>") if is_late else person(number, asked)

    with serving(ending) as served:
        made = study(model_folder, run, served, turns=4)
    assert len(turns_of(run)) < 2 * 4
    assert not any("context was full" in warning for warning in made.warnings)


def test_the_price_of_given_conversations_says_what_an_embedder_is_sent():
    """`Hi there` is 8 bytes, two tokens, said twice; `And?` one."""
    talk = Conversation(
        (
            Message("user", "Hi there"),
            Message("assistant", "Hello."),
            Message("user", "And?"),
            Message("assistant", "Well."),
            Message("user", "Nobody answers this."),
        ),
        "a",
    )
    limits = EndpointLimits(usd_per_million_in=1000.0, usd_per_million_out=0.0)
    settings = DriftStudySettings(embed="openai:e", limits=limits, harm=True, arms="none,capped")
    price = pipeline.price_transcripts([("x", talk), ("y", replace(talk, id="b"))], settings)
    assert price == {
        "conversations to read": 2,
        "answers to requests, judged": 4,
        "embedding requests, at the first attempt": 1,
        "tokens sent to the embedder, about": 3,
        "embedder, dollars": 0.003,
    }


def test_the_price_says_what_an_embedder_is_sent():
    """Each text of the scripts once, a token for four bytes."""
    limits = EndpointLimits(usd_per_million_in=1000.0, usd_per_million_out=0.0)
    settings = DriftStudySettings(
        domains="coding", people=1, topics=2, turns=3, embed="openai:e", limits=limits
    )
    plan = plan_study(settings, load_user_personas(), load_user_lines())
    texts = {line.text for each in plan.conversations for line in each.script[:3]}
    price = pipeline.price_study(settings)
    assert price["embedding requests, at the first attempt"] == 1
    sent = sum(-(-len(text.encode()) // 4) for text in texts)
    assert price["tokens sent to the embedder, about"] == sent
    assert price["embedder, dollars"] == round(sent / 1000, 4)
