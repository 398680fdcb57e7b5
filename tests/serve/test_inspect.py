"""A run as a model of Inspect's, through Inspect's own `eval`."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from inspect_ai import Task
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    get_model,
)
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool

import keel
from keel.engines import Results
from keel.errors import KeelError, NotAppliedError
from keel.serve.inspect_model import KeelModel, conversation_seed
from keel.steering import Firing
from keel.store import open_run
from keel.types import Conversation, Message, Prompt, Sampling
from tests.serve.conftest import QUESTIONS

GREEDY = Sampling(max_new_tokens=8, temperature=0.0)


def said(log) -> dict[str, str]:
    """Answer by question."""
    assert log.status == "success", log.error and log.error.message
    return {sample.input: sample.output.completion for sample in log.samples}


def longest(log):
    """The sample that was answered at most length: a tiny model often says nothing at all."""
    assert log.status == "success", log.error and log.error.message
    found = max(log.samples, key=lambda sample: len(sample.output.completion))
    assert len(found.output.completion) > 5
    return found


def engine_says(run: Path, floors, sampling: Sampling = GREEDY) -> dict[str, str]:
    """What an engine of our own answers to each question, one at a time."""
    engine = keel.open_engine(open_run(run).identity.model_id, device="cpu", dtype="float32")
    found = {}
    for question in QUESTIONS:
        asked = Conversation((Message("user", question),))
        seed = conversation_seed(asked, seed=7, repeat=0)
        prompts = [Prompt("own", asked)]
        (one,) = engine.generate(prompts, sampling, seed=seed, interventions=tuple(floors))
        found[question] = one.text
    return found


def test_inspect_finds_the_model_and_loads_no_torch_in_looking_for_it():
    (found,) = entry_points(group="inspect_ai", name="keel")
    assert found.value == "keel.serve.inspect_provider"
    look = (
        "import sys, keel.serve.inspect_provider as ours; "
        "sys.exit('torch' in sys.modules or not callable(ours.keel))"
    )
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def test_a_task_runs_capped_by_the_runs_own_setting_unless_told_otherwise(
    task, held_run, evaluated
):
    log = evaluated(task, held_run, temperature=0)
    chosen = open_run(held_run).floors
    assert said(log) == engine_says(held_run, chosen)
    for sample in log.samples:
        told = sample.output.metadata
        assert told["setting"] == chosen.name
        assert told["is_capped"] is True
        assert 0 < told["firing_rate"] < 1
        assert told["layer"] in chosen.layers


def test_the_cap_changes_what_is_said_and_without_it_the_model_says_what_it_says(
    task, held_run, evaluated
):
    """Both sides, so that neither test passes on a model that ignores its floors."""
    log = evaluated(task, held_run, {"setting": "none"}, temperature=0)
    assert said(log) == engine_says(held_run, ())
    assert said(log) != engine_says(held_run, open_run(held_run).floors)
    for sample in log.samples:
        told = sample.output.metadata
        assert (told["setting"], told["is_capped"], told["firing_rate"]) == ("none", False, None)


def test_another_setting_is_used_by_name(task, held_run, evaluated):
    run = open_run(held_run)
    other = next(name for name in run.settings if name != run.floors.name)
    log = evaluated(task, held_run, {"setting": other}, temperature=0)
    assert {sample.output.metadata["setting"] for sample in log.samples} == {other}
    assert said(log) == engine_says(held_run, run.floors_named(other))


def test_the_projection_is_that_of_the_answers_own_tokens(task, held_run, evaluated, held):
    log = evaluated(task, held_run, temperature=0)
    sample = longest(log)
    (own,) = held.engine.generate(
        [Prompt("own", Conversation((Message("user", sample.input),)))],
        GREEDY,
        seed=0,
        recording=held.gauge.recording,
        interventions=tuple(held.floors),
    )
    mean = float(own.projections_TK.mean())
    assert sample.output.metadata["projection"] == pytest.approx(mean, abs=1e-3)
    gaps = held.gauge.in_gaps(mean)
    assert sample.output.metadata["projection_gaps"] == pytest.approx(gaps, abs=1e-3)


@pytest.mark.parametrize("given", [{}, {"setting": None}])
def test_a_run_without_floors_is_refused_and_not_served_as_it_is(task, bare_run, evaluated, given):
    with pytest.raises(PrerequisiteError, match=r"has no floors.*keel calibrate.*setting=none"):
        evaluated(task, bare_run, given)


def test_a_run_without_floors_answers_where_uncapped_is_asked_for(task, bare_run, evaluated):
    log = evaluated(task, bare_run, {"setting": "none"}, temperature=0)
    assert said(log) == engine_says(bare_run, ())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"setting": "layers_7"}, "no setting 'layers_7'"),
        ({"settings": "none"}, "no option settings; there are setting, engine, device"),
        ({"engine": "vlm"}, "engine is 'vlm', expected"),
        ({"engine": "vllm"}, "the vllm engine has no option device"),
    ],
)
def test_a_wrong_option_is_one_clear_line(task, held_run, evaluated, given, message):
    with pytest.raises(PrerequisiteError, match=message):
        evaluated(task, held_run, given)


def test_a_run_that_is_not_there_is_one_clear_line(task, tmp_path, evaluated):
    with pytest.raises(PrerequisiteError, match=r"^keel: .*nowhere") as caught:
        evaluated(task, tmp_path / "nowhere")
    assert isinstance(caught.value.__cause__, KeelError)


def test_answers_are_withheld_when_the_floors_did_not_reach_the_model(
    task, held_run, evaluated, monkeypatch
):
    """An engine that loses its count of one layer cannot say that it held it."""
    from keel.engines.transformers import TransformersEngine

    plain = TransformersEngine.generate
    lost = open_run(held_run).floors.layers[0]

    def losing(self, *arguments, interventions, **rest):
        results = plain(self, *arguments, interventions=interventions, **rest)

        def counted():
            yield from results
            slots = {layer: n for layer, n in results.firing.slots.items() if layer != lost}
            return Firing({layer: results.firing.fired[layer] for layer in slots}, slots)

        return Results(counted(), [floor.layer for floor in interventions])

    monkeypatch.setattr(TransformersEngine, "generate", losing)
    log = evaluated(task, held_run, {"blocks": "model.layers"})
    assert log.status == "error"
    assert f"at layers [{lost}] saw no token" in log.error.message
    assert NotAppliedError.__name__ in log.error.message


def test_answers_with_a_seed_are_the_same_alone_and_in_company(task, held_run, evaluated):
    sampling = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.95)
    more = {"temperature": 1.0, "top_p": 0.95, "seed": 7}
    together = evaluated(task, held_run, **more, max_connections=8)
    one_by_one = evaluated(task, held_run, **more, max_connections=1)
    assert {s.output.metadata["batch_size"] for s in one_by_one.samples} == {1}
    assert max(s.output.metadata["batch_size"] for s in together.samples) > 1
    own = engine_says(held_run, open_run(held_run).floors, sampling)
    assert said(together) == said(one_by_one) == own


def test_epochs_without_a_seed_differ(held_run, evaluated):
    """Draws without a seed are the same in every process: this cannot fail by chance."""
    task = Task(dataset=[Sample("What is the sea?", target="e")], scorer=includes())
    log = evaluated(task, held_run, temperature=1.5, top_p=1.0, epochs=4)
    assert log.status == "success"
    assert len({sample.output.completion for sample in log.samples}) > 1


def test_nought_is_a_seed_like_any_other(held_run, evaluated):
    """Asked again with it, the same is answered the same; without one, epochs differ."""
    task = Task(dataset=[Sample("What is the sea?", target="e")], scorer=includes())
    log = evaluated(task, held_run, temperature=1.5, top_p=1.0, seed=0, epochs=4)
    assert log.status == "success"
    assert len({sample.output.completion for sample in log.samples}) == 1


def test_what_comes_after_a_stop_sequence_is_cut_and_not_counted(task, held_run, evaluated, held):
    whole = evaluated(task, held_run, temperature=0)
    long = longest(whole)
    text = long.output.completion
    stop = text[len(text) // 2 :][:3]
    before = text.split(stop)[0]
    cut = evaluated(task, held_run, temperature=0, stop_seqs=[stop, "never said"])
    (found,) = (sample for sample in cut.samples if sample.input == long.input)
    assert found.output.completion == before
    assert found.output.stop_reason == "stop"
    assert found.output.metadata["projection"] != long.output.metadata["projection"]


def test_usage_counts_the_prompts_tokens_and_the_sampled_ones(task, held_run, evaluated, held):
    log = evaluated(task, held_run, temperature=0)
    for sample in log.samples:
        asked = Conversation((Message("user", sample.input),))
        prompt = len(held.engine.template.prompt_ids(asked))
        usage = sample.output.usage
        assert usage.input_tokens == prompt
        assert 0 <= usage.output_tokens <= 8
        assert usage.total_tokens == prompt + usage.output_tokens
        is_full = usage.output_tokens == 8
        assert sample.output.stop_reason == ("max_tokens" if is_full else "stop")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"logprobs": True}, "logprobs=True"),
        ({"num_choices": 3}, "num_choices=3"),
        ({"top_k": 1}, "top_k=1"),
        ({"presence_penalty": 0.5}, "presence_penalty=0.5"),
    ],
)
def test_what_cannot_be_done_is_said_and_not_left_out(task, held_run, evaluated, option, message):
    log = evaluated(task, held_run, **option)
    assert log.status == "error"
    assert f"keel models cannot do {message}" in log.error.message


def test_options_that_ask_for_nothing_are_no_offence(task, held_run, evaluated):
    neutral = {"logprobs": False, "num_choices": 1, "presence_penalty": 0.0, "max_retries": 2}
    assert evaluated(task, held_run, **neutral).status == "success"


def test_a_task_with_tools_is_refused(held_run, evaluated):
    @tool
    def bell():
        async def execute() -> str:
            """Ring the bell."""
            return "rung"

        return execute

    solver = [use_tools(bell()), generate()]
    task = Task(dataset=[Sample("Ring it.", target="e")], solver=solver, scorer=includes())
    log = evaluated(task, held_run)
    assert log.status == "error"
    assert "call no tools, and this task has bell" in log.error.message


def test_a_prefill_is_gone_on_with(held_run, evaluated):
    spoken = [
        ChatMessageSystem(content="You are terse."),
        ChatMessageUser(content="What is the sea?"),
        ChatMessageAssistant(content="The sea is"),
    ]
    task = Task(dataset=[Sample(spoken, target="e")], scorer=includes())
    log = evaluated(task, held_run, temperature=0)
    engine = keel.open_engine(open_run(held_run).identity.model_id, device="cpu", dtype="float32")
    asked = Conversation(tuple(Message(one.role, one.content) for one in spoken))
    floors = tuple(open_run(held_run).floors)
    (own,) = engine.generate([Prompt("own", asked)], GREEDY, seed=0, interventions=floors)
    assert log.samples[0].output.completion == own.text


def test_a_closed_model_answers_no_more_and_leaves_no_thread(held_run):
    import asyncio
    import threading

    async def ask() -> KeelModel:
        async with get_model(f"keel/{held_run}", device="cpu", dtype="float32") as model:
            output = await model.generate("What is the sea?", config={"max_tokens": 4})
            assert output.completion is not None
        return model.api

    before = threading.active_count()
    asyncio.run(ask())
    assert threading.active_count() <= before
