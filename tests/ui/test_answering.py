"""Both sides are answered, measured, and never uncapped under the name of capped."""

from __future__ import annotations

import threading

import pytest
import torch

from keel import pipeline
from keel.engines import Recording
from keel.steering import Addition
from keel.store import Run, RunFolder, open_run
from keel.testing import FakeEngine
from keel.types import (
    Conversation,
    Message,
    Prompt,
    Sampling,
    TurnLevels,
    system_hash,
)
from keel.ui import SideBySide, TwoSidedQuestion
from keel.ui.answering import pieces_of
from tests.pipeline.small import INPUTS, SETTINGS
from tests.ui.conftest import opened

GREEDY = Sampling(max_new_tokens=8, temperature=0)


def asked(text: str = "Who are you?") -> Conversation:
    return Conversation((Message("user", text),))


def alone(model: SideBySide, interventions=(), conversation: Conversation | None = None):
    """The engine's own answer."""
    answers = model.engine.generate(
        [Prompt("own", conversation or asked())],
        GREEDY,
        seed=0,
        recording=model.gauge(None).recording,
        interventions=interventions,
    )
    (completion,) = answers
    return completion, answers.firing


def test_each_side_is_the_engines_own_answer_with_and_without_floors(page, model):
    found = page.answers()
    free, _ = alone(model)
    kept, firing = alone(model, tuple(model.run.floors))
    assert found["uncapped"]["text"] == free.text
    assert found["capped"]["text"] == kept.text
    assert found["uncapped"]["acted"] is None
    acted = found["capped"]["acted"]
    assert acted["setting"] == model.run.floors.name
    assert (acted["fired"], acted["slots"]) == (
        sum(firing.fired.values()),
        sum(firing.slots.values()),
    )
    assert acted["slots"] > 0


def test_every_token_has_its_projection_and_together_they_are_the_text(page, model):
    answer = page.answers(sides=["uncapped"])["uncapped"]
    completion, _ = alone(model)
    gauge = model.gauge(None)
    expected = [gauge.in_gaps(p) for p in completion.projections_TK[:, 0].tolist()]
    assert [gaps for _, gaps in answer["pieces"]] == pytest.approx(expected)
    assert "".join(text for text, _ in answer["pieces"]) == answer["text"].rstrip("�")
    assert answer["gaps"] == pytest.approx(sum(expected) / len(expected))


def test_text_comes_as_it_is_written_and_before_the_numbers(page):
    events = page.events(sides=["capped"])
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["waiting", "begun"]
    assert set(kinds[2:-2]) == {"text"}
    assert kinds[-2:] == ["answered", "done"]
    streamed = "".join(event["text"] for event in events if event["event"] == "text")
    assert events[-2]["answer"]["text"].startswith(streamed)


def test_each_side_remembers_its_own_answers(page, model):
    turns = [{"user": "Hi", "uncapped": "Boo", "capped": None}]
    found = page.answers(turns=turns, message="And now?", system="You are a ghost.")
    said = (
        Message("system", "You are a ghost."),
        Message("user", "Hi"),
        Message("assistant", "Boo"),
        Message("user", "And now?"),
    )
    free, _ = alone(model, conversation=Conversation(said))
    kept, _ = alone(model, tuple(model.run.floors), Conversation((said[0], said[3])))
    assert found["uncapped"]["text"] == free.text
    assert found["capped"]["text"] == kept.text


def test_another_setting_acts_where_it_is_chosen(page, model):
    other = next(name for name in model.run.settings if name != model.run.floors.name)
    answer = page.answers(sides=["capped"], setting=other)["capped"]
    assert answer["acted"]["setting"] == other
    assert answer["floor_gaps"] == pytest.approx(model.gauge(other).floor_gaps)


def test_a_push_acts_on_both_sides_and_the_floor_still_holds(page, model):
    found = page.answers(strength=-0.5)
    step = Addition.along(model.run.axis, -0.5)
    free, _ = alone(model, (step,))
    assert found["uncapped"]["text"] == free.text
    assert found["uncapped"]["step"] == found["capped"]["step"] == -0.5
    capped = found["capped"]
    assert all(gaps >= capped["floor_gaps"] - 1e-3 for _, gaps in capped["pieces"])
    # The step's own tokens are no slots of the floors'.
    layers = len(model.run.floors.layers)
    assert capped["acted"]["slots"] % layers == 0


def test_a_run_without_floors_is_never_answered_under_the_name_of_capped(open_page, bare_run):
    page = open_page(opened(bare_run))
    assert "nothing can be capped" in page.client.get("/run").json()["no_floors"]
    events = page.events()
    assert [event["event"] for event in events] == ["waiting", "failed"]
    assert f"keel calibrate {bare_run}" in events[-1]["message"]
    assert page.answers(sides=["uncapped"])["uncapped"]["text"]


def test_floors_that_did_not_reach_the_model_end_in_a_refusal(open_page, tmp_path):
    """A layer that silently does nothing: the text that was streamed is not given as an answer."""
    folder = RunFolder(tmp_path / "fake")
    pipeline.extract(FakeEngine(), folder, SETTINGS, inputs=INPUTS)
    pipeline.calibrate(FakeEngine(), folder)
    run = open_run(folder.path)
    deaf = FakeEngine(unreached_layers=run.floors.layers[:1])
    events = open_page(SideBySide(deaf, run)).events(sides=["capped"])
    assert events[-1]["event"] == "failed"
    assert "saw no token" in events[-1]["message"]
    assert "answered" not in {event["event"] for event in events}


def test_what_the_context_cannot_hold_is_refused_in_words_and_the_page_goes_on(page):
    events = page.events(message="x" * 5000)
    assert [event["event"] for event in events] == ["waiting", "failed"]
    assert "the model's context holds" in events[-1]["message"]
    assert page.answers()


def test_a_stopped_answer_is_measured_as_far_as_it_was_written(model):
    """Its tokens' projections are those of a reading under the same floors."""
    events: list[tuple[str, dict]] = []
    written = threading.Event()

    def note(kind: str, **values: object) -> None:
        events.append((kind, values))
        if sum(kind == "text" for kind, _ in events) == 3:
            written.set()

    question = TwoSidedQuestion({"capped": asked()}, Sampling(max_new_tokens=200, temperature=0))
    model.answer(question, note, written.is_set)
    answer = events[-1][1]["answer"]
    assert answer.finish == "stopped"
    assert answer.text == "".join(v["text"] for kind, v in events if kind == "text")
    floors = tuple(model.run.floors)
    readings = model.engine.read(
        [asked().with_reply(answer.text)],
        recording=Recording(model.gauge(None).recording.means, model.gauge(None).recording.probes),
        interventions=floors,
    )
    (reading,) = readings
    torch.testing.assert_close(
        torch.tensor([gaps for _, gaps in answer.pieces]),
        torch.tensor(
            [model.gauge(None).in_gaps(p) for p in reading.turns[0].projections_TK[:, 0].tolist()]
        ),
    )
    # Under all the run's floors, those above the layer that is read among them.
    assert set(readings.firing.slots) == set(model.run.floors.layers)
    assert answer.acted.slots == sum(readings.firing.slots.values())


def test_a_loaded_conversation_is_measured_answer_by_answer(page, model):
    messages = [["user", "Hi"], ["assistant", "Boo"], ["user", "So?"], ["assistant", "Whooo"]]
    events = page.events("/read", messages=messages, system="You are a ghost.")
    found = [event for event in events if event["event"] == "answered"]
    assert [event["turn"] for event in found] == [0, 1]
    said = (Message("system", "You are a ghost."), *(Message(*each) for each in messages))
    (reading,) = pipeline_drift(model, Conversation(said))
    assert [e["answer"]["gaps"] for e in found] == pytest.approx([t.gaps for t in reading.turns])
    assert {e["answer"]["finish"] for e in found} == {"given"}


def test_an_answer_is_held_against_the_default_of_its_own_turn(held_run):
    """Under the system prompt that the levels are of; of others nothing is known."""

    class Knowing(Run):
        def turn_levels(self, layer: int) -> TurnLevels:
            known = system_hash("Be brief.")
            return TurnLevels(layer, (0.9, 0.4), (0.1, 0.1), (12, 12), system_sha256=known)

    model = opened(held_run)
    model.run = Knowing(held_run)
    said = (("user", "Hi"), ("assistant", "Boo"), ("user", "So?"), ("assistant", "Whooo"))
    assert expected_by(model, "Be brief.", said) == [0.9, 0.4]
    assert expected_by(model, "Be a ghost.", said) == [None, None]


def expected_by(model: SideBySide, system: str, said) -> list[float | None]:
    answers = []
    conversation = Conversation((Message("system", system), *(Message(*each) for each in said)))
    model.read(conversation, None, lambda kind, **values: answers.append(values["answer"]))
    return [answer.expected_gaps for answer in answers]


def pipeline_drift(model: SideBySide, conversation: Conversation):
    from keel.drift import read_drift

    layer = model.gauge(None).layer
    return list(read_drift(model.engine, [conversation], model.run.axis, layer=layer))


def test_a_character_of_several_tokens_belongs_to_the_token_that_completes_it():
    """A tokenizer of bytes: é is two of them, the second completes it."""

    class Bytes:
        def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
            return bytes(ids).decode("utf-8", errors="replace")

    assert list(pieces_of(Bytes(), [*"aé!".encode()])) == ["a", "", "é", "!"]
