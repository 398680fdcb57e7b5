"""An engine as judge: its probabilities become labels, and what it favours anyway is taken out."""

from __future__ import annotations

import pytest
import torch

from keel.engines.transformers import TransformersEngine
from keel.errors import ChatTemplateError, UsageError
from keel.judge import ChannelGrader, LabelGrader
from keel.judge.prompting import make_judge_prompt
from keel.prompts import read_rubrics
from keel.testing import tiny_model, tiny_tokenizer
from keel.types import Case, Conversation, Message, Rubric, RubricLabel
from tests.judge.answers import said
from tests.judge.listeners import Broken, Listener, Mute

CATS = Rubric(
    "cats",
    1,
    "Is it about cats?",
    labels=(RubricLabel("yes", "It is.", 1.0), RubricLabel("no", "It is not.", 0.0)),
)
SCALE = Rubric("much", 1, "How much?", low=0, high=100)
PURR, BARK = said("purr", "It says purr."), said("bark", "It says bark.")

FAVOURS_YES = {
    "purr": {"yes": 0.8, "no": 0.2},
    "bark": {"yes": 0.6, "no": 0.4},
    "": {"yes": 0.7, "no": 0.3},
}


def tiny(**more: str) -> TransformersEngine:
    tokenizer = tiny_tokenizer()
    for name, value in more.items():
        setattr(tokenizer, name, value)
    return TransformersEngine(tiny_model("llama"), tokenizer)


def test_the_likeliest_label_wins_with_its_probability():
    """Without calibration: 0.8 against 0.2, whatever the replies' common beginning weighs."""
    (found,) = LabelGrader(Listener(FAVOURS_YES), is_calibrated=False).grade([PURR], CATS)
    assert (found.label, found.score, found.status) == ("yes", 1.0, "ok")
    assert found.confidence == pytest.approx(0.8)


def test_what_the_model_favours_anyway_is_taken_out():
    """bark: 0.6 / 0.7 against 0.4 / 0.3, so 0.857 against 1.333: no, with 1.333 / 2.190 = 0.609."""
    (plain,) = LabelGrader(Listener(FAVOURS_YES), is_calibrated=False).grade([BARK], CATS)
    (found,) = LabelGrader(Listener(FAVOURS_YES)).grade([BARK], CATS)
    assert plain.label == "yes"
    assert (found.label, found.score) == ("no", 0.0)
    assert found.confidence == pytest.approx(0.6087, abs=1e-4)


def test_where_nothing_is_known_calibrated_labels_are_equally_likely():
    blank = Conversation((Message("user", "[the question]"), Message("assistant", "[the answer]")))
    (found,) = LabelGrader(Listener(FAVOURS_YES)).grade([Case("x", blank)], CATS)
    assert found.confidence == pytest.approx(0.5)


def test_what_it_favours_is_read_once_per_question():
    engine = Listener(FAVOURS_YES)
    list(LabelGrader(engine).grade([PURR, BARK, PURR], CATS))
    assert len(engine.asked) == (3 + 1) * 2


def test_what_it_favours_is_read_for_each_fields_question():
    asks = Rubric("of", 1, "Is it about {animal}?", labels=CATS.labels)
    engine = Listener(FAVOURS_YES)
    cases = [said(animal, "It says purr.", animal=animal) for animal in ("cats", "dogs")]
    list(LabelGrader(engine).grade(cases, asks))
    assert len(engine.asked) == (2 + 2) * 2


def test_on_a_scale_the_expectation_counts():
    """0 with 0.25, 100 with 0.75, and nine numbers with next to nothing: 75."""
    engine = Listener({"": {"0": 0.25, "100": 0.75} | {str(n): 1e-9 for n in range(10, 100, 10)}})
    (found,) = LabelGrader(engine, is_calibrated=False).grade([PURR], SCALE)
    assert found.score == pytest.approx(75, abs=1e-3)
    assert found.label == "75"


def test_a_short_scale_is_read_in_full():
    engine = Listener({"": {str(n): 0.25 for n in range(4)}})
    (found,) = LabelGrader(engine, is_calibrated=False).grade(
        [PURR], Rubric("r", 1, "?", low=0, high=3)
    )
    assert [c.messages[-1].content[-1] for c in engine.asked] == ["0", "1", "2", "3"]
    assert found.score == pytest.approx(1.5)


def test_it_is_asked_what_other_judges_are_asked():
    engine = Listener(FAVOURS_YES)
    list(LabelGrader(engine, is_calibrated=False).grade([PURR], CATS))
    *prompt, reply = engine.asked[0].messages
    assert make_judge_prompt(PURR, CATS).messages == tuple(prompt)
    assert reply.content == "Label: yes"


def test_verdicts_come_one_by_one():
    engine = Listener(FAVOURS_YES)
    verdicts = LabelGrader(engine, is_calibrated=False).grade([PURR, BARK], CATS)
    next(verdicts)
    assert len(engine.asked) == 2


def test_a_verdict_does_not_depend_on_which_other_cases_are_judged():
    cases = [said(f"c{n}", "word " * (3 * n + 1)) for n in range(4)]
    together = list(LabelGrader(tiny()).grade(cases, CATS))
    alone = [verdict for case in cases for verdict in LabelGrader(tiny()).grade([case], CATS)]
    assert together == alone


def test_probabilities_are_those_of_the_models_own_logits():
    """Worked out apart: each reply's tokens, one whole sequence at a time, plain softmax."""
    engine = tiny()
    (found,) = LabelGrader(engine, is_calibrated=False).grade([PURR], CATS)
    head = make_judge_prompt(PURR, CATS).messages
    sums = []
    for reply in ("Label: yes", "Label: no"):
        text = engine.template.transcript(Conversation((*head, Message("assistant", reply))))
        (turn,) = text.turns
        with torch.inference_mode():
            logits_TV = engine.model(torch.tensor([text.token_ids])).logits[0].log_softmax(-1)
        places = range(turn.start, turn.stop)
        sums.append(sum(float(logits_TV[n - 1, text.token_ids[n]]) for n in places))
    expected = torch.softmax(torch.tensor(sums), -1)
    assert found.confidence == pytest.approx(float(expected.max()), abs=1e-4)


def test_a_template_without_system_prompts_will_do():
    refuses = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    engine = tiny(chat_template=refuses)
    assert not engine.template.supports_system
    for grader in (LabelGrader(engine), ChannelGrader(engine)):
        assert [v.status for v in grader.grade([PURR], CATS)] == ["ok"]


def test_likelihoods_that_are_no_numbers_are_a_failed_verdict():
    (found,) = LabelGrader(Broken({})).grade([PURR], CATS)
    assert (found.status, found.label) == ("failed", "")


@pytest.mark.parametrize("grader", [LabelGrader(Mute()), ChannelGrader(Mute())])
def test_a_template_that_swallows_replies_is_told(grader: LabelGrader | ChannelGrader):
    with pytest.raises(ChatTemplateError, match="no tokens of its own"):
        list(grader.grade([PURR], CATS))


@pytest.mark.parametrize("kind", [LabelGrader, ChannelGrader])
def test_a_case_that_does_not_fit_is_refused_before_anything_is_read(kind: type[LabelGrader]):
    engine = Listener(FAVOURS_YES)
    with pytest.raises(UsageError, match="asks for {request}"):
        kind(engine).grade([PURR], read_rubrics()["harm"])
    assert engine.asked == []


def test_names_tell_models_and_ways_apart():
    engine, other = tiny(), Listener({})
    names = {
        LabelGrader(engine).name,
        LabelGrader(engine, is_calibrated=False).name,
        LabelGrader(other).name,
        ChannelGrader(engine).name,
        ChannelGrader(other).name,
    }
    assert len(names) == 5


def test_the_channel_takes_the_label_that_explains_the_answer():
    """Two tokens: log 0.8 − 0.5 against log 0.2 − 0.5, over √2: (0.8 / 0.2)^(1/√2) = 2.665."""
    engine = Listener(
        {"It is.": {"It says purr.": 0.8}, "It is not.": {"It says purr.": 0.2}, "": {}}
    )
    (found,) = ChannelGrader(engine).grade([PURR], CATS)
    assert (found.label, found.score) == ("yes", 1.0)
    assert found.confidence == pytest.approx(2.665 / 3.665, abs=1e-3)


def test_the_channel_is_told_instruction_and_label_and_shown_the_last_question():
    engine = Listener({"": {}})
    list(ChannelGrader(engine).grade([PURR], CATS))
    told, asked, answer = engine.asked[0].messages
    assert told.content.startswith("Is it about cats?")
    assert told.content.endswith("yes: It is.")
    assert (asked.content, answer.content) == ("Who are you?", "It says purr.")


def test_an_empty_answer_makes_no_sense_to_the_channel_and_is_not_read():
    engine = Listener({"": {}})
    empty = said("x", " ", request="r", category="c", good_answer="g")
    (found,) = ChannelGrader(engine).grade([empty], read_rubrics()["harm"])
    assert (found.label, found.confidence, engine.asked) == ("nonsensical", 1.0, [])
    (found,) = ChannelGrader(engine).grade([empty], CATS)
    assert found.status == "unparsed"


def test_the_channel_weighs_labels_only():
    with pytest.raises(UsageError, match="has a scale"):
        ChannelGrader(Listener({})).grade([PURR], SCALE)
