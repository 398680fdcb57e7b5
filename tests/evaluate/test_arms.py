"""Arms do what their names say, and are told apart by what they do."""

from dataclasses import replace

import pytest
import torch

from keel.engines import Probe, Recording
from keel.errors import MissingArtifactError, TooFewSamplesError, UsageError
from keel.evaluate import Arm, ArmSources, Instruction, make_arms, parse_arms, spoken_arms
from keel.steering import Ablation, Addition
from keel.testing import FakeEngine
from keel.types import Floor, Floors
from tests.evaluate.answers import ANSWERS, role_vectors


@pytest.fixture
def engine():
    return FakeEngine(layers=8, noise=0.8)


@pytest.fixture
def sources(engine):
    return ArmSources(
        axis=engine.axis,
        floors=band(engine, "layers_4:6-p75", 4.5),
        floors_named=lambda name: band(engine, name, 3.0),
        role_vectors=lambda: role_vectors(8, 8),
        answers=lambda: ANSWERS,
        run="runs/made-up",
    )


def band(engine, name: str, value: float) -> Floors:
    return Floors(tuple(Floor(n, engine.axis.direction[n], value) for n in (4, 5)), name)


def arm(text: str, sources: ArmSources, engine, **more) -> Arm:
    return make_arms(parse_arms(text), sources, engine, **more)[-1]


def heights(engine, made: Arm, layer: int) -> torch.Tensor:
    """Projections of the default's first answer at a layer under an arm."""
    recording = Recording(probes=(Probe(layer, engine.axis.direction[layer]),))
    (reading,) = engine.read(
        [ANSWERS[0].conversation], recording=recording, interventions=made.interventions
    )
    return reading.turns[-1].projections_TK[:, 0]


def test_arms_come_in_the_order_asked_for_the_unsteered_one_first(sources, engine):
    text = "shuffled,capped,random:-0.5,none,reprompt"
    made = make_arms(parse_arms(text), sources, engine)
    names = [one.name for one in made]
    assert names == ["none", "shuffled", "capped", "random:-0.5", "reprompt"]


def test_the_unsteered_arm_does_nothing_and_changes_no_conversation(sources, engine):
    none = arm("none", sources, engine)
    assert none.interventions == ()
    asked = ANSWERS[0].conversation
    assert none.change(asked) is asked
    assert not none.has_bound


def test_capped_takes_the_chosen_floors_or_those_of_a_setting(sources, engine):
    assert arm("capped", sources, engine).interventions == sources.floors.floors
    named = arm("capped:layers_4:6-p50", sources, engine)
    assert [floor.value for floor in named.interventions] == [3.0, 3.0]
    assert named.has_bound


def test_steering_up_moves_towards_the_assistant_and_down_away(sources, engine):
    layer = engine.axis.layer
    plain = heights(engine, arm("none", sources, engine), layer)
    up = heights(engine, arm("steered:+0.5", sources, engine), layer)
    down = heights(engine, arm("steered:-0.5", sources, engine), layer)
    # The planted residual norm at layer 4 is 5: half of it is 2.5.
    assert torch.allclose(up - plain, torch.tensor(2.5), atol=1e-4)
    assert torch.allclose(down - plain, torch.tensor(-2.5), atol=1e-4)


def test_steering_happens_at_the_layer_asked_for(sources, engine):
    (step,) = arm("steered:-0.5@2", sources, engine).interventions
    assert (step.layer, step.amount) == (2, pytest.approx(-1.5))  # the norm there is 3


def test_replacement_puts_every_token_at_the_defaults_mean(sources, engine):
    replaced = arm("replaced", sources, engine)
    assert [type(one) for one in replaced.interventions] == [Ablation, Ablation]
    for layer in (4, 5):
        found = heights(engine, replaced, layer)
        # The planted default projects to layer + 1.
        assert torch.allclose(found, torch.full_like(found, layer + 1.0), atol=1e-4)


def test_replacement_is_along_the_axis_as_it_lies_at_each_layer(sources, engine):
    turned = engine.axis.vector.clone()
    turned[4] = turned[4].roll(1)
    axis = replace(engine.axis, vector=turned)
    replaced = arm("replaced", replace(sources, axis=axis), engine)
    for one in replaced.interventions:
        assert torch.equal(one.direction, axis.direction[one.layer])


def test_without_floors_replacement_is_at_the_axis_layer(sources, engine):
    replaced = arm("replaced", replace(sources, floors=None), engine)
    assert [one.layer for one in replaced.interventions] == [engine.axis.layer]


@pytest.mark.parametrize("kind", ["random", "shuffled", "in-span"])
def test_a_control_of_steering_takes_exactly_as_long_a_step_elsewhere(kind, sources, engine):
    (step,) = arm("steered:-0.5@3", sources, engine).interventions
    (other,) = arm(f"{kind}:-0.5@3", sources, engine).interventions
    assert isinstance(other, Addition)
    assert (other.layer, other.amount) == (step.layer, step.amount)
    assert abs(float(other.direction @ step.direction)) < 0.99


@pytest.mark.parametrize("kind", ["random", "shuffled", "in-span"])
def test_a_control_of_the_cap_fires_nominally_as_often_as_the_cap(kind, sources, engine):
    talks = [one.conversation for one in ANSWERS]
    for text in ("capped", kind):
        rates = []
        for floor in arm(text, sources, engine).interventions:
            readings = engine.read(talks, recording=Recording(), interventions=[floor])
            list(readings)
            rates.append(readings.firing.rate)
        if text == "capped":
            expected = rates
    assert rates == pytest.approx(expected, abs=0.01)


def test_a_control_can_be_of_a_named_setting(sources, engine):
    """Lower floors fire less, so their control does."""
    found = [arm(text, sources, engine).note for text in ("random", "random:layers_4:6-p50")]
    assert "under layers_4:6-p75" in found[0]
    assert "under layers_4:6-p50" in found[1]


def test_a_control_tells_its_cosine_with_the_axis_and_how_it_matches(sources, engine):
    note = arm("in-span", sources, engine).note
    assert "cosine with the axis" in note
    assert "of calibration slots" in note
    assert "mean lift" in note
    assert "matched in firing" in note
    assert "matched in lift" in arm("random-lift", sources, engine).note
    assert "cosine with the axis" in arm("shuffled:-0.5", sources, engine).note


def test_a_control_that_never_fires_is_said_to(sources, engine):
    low = replace(sources, floors=band(engine, "layers_4:6-p1", -100.0))
    (warning,) = arm("random", low, engine).warnings
    assert warning.startswith("arm 'random': on the calibration answers neither layers_4:6-p1")
    assert "layers 4 to 5" in warning


def test_answers_are_read_only_when_a_control_of_a_cap_is_asked_for(sources, engine):
    def refuse():
        raise AssertionError("read for nothing")

    unread = replace(sources, answers=refuse, role_vectors=refuse)
    assert arm("capped,steered:+1,random:-0.5,shuffled:1,prompt", unread, engine).name == "prompt"


def test_prompt_baselines_change_words_and_nothing_else(sources, engine):
    prompt, reprompt = make_arms(parse_arms("prompt,reprompt"), sources, engine)[1:]
    assert prompt.interventions == reprompt.interventions == ()
    longer = ANSWERS[0].conversation.with_user("go on")
    words = Instruction().text
    assert [words in m.content for m in prompt.change(longer).messages] == [True] + 3 * [False]
    assert [words in m.content for m in reprompt.change(longer).messages] == [
        True,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("text", "missing", "error", "told"),
    [
        ("capped", {"floors": None}, MissingArtifactError, "keel calibrate runs/made-up"),
        ("random", {"floors": None}, MissingArtifactError, "keel calibrate runs/made-up"),
        ("in-span", {"role_vectors": tuple}, TooFewSamplesError, "extract more roles"),
        ("random", {"answers": tuple}, TooFewSamplesError, "extract with more questions"),
        ("capped:no-such", {"floors_named": None}, UsageError, "there is layers_4:6-p75"),
        ("steered:-0.5@8", {}, UsageError, "the model's are 0 to 7"),
    ],
)
def test_what_an_arm_lacks_is_told_with_what_makes_it(text, missing, error, told, sources, engine):
    with pytest.raises(error, match=told):
        arm(text, replace(sources, **missing), engine)


@pytest.mark.parametrize("text", ["capped", "in-span", "steered:-0.5@8"])
def test_the_arm_that_lacks_something_is_named(text, sources, engine):
    bare = replace(sources, floors=None)
    with pytest.raises((MissingArtifactError, UsageError), match=f"^arm '{text}': "):
        arm(text, bare, engine)


@pytest.mark.parametrize(
    ("text", "unknown"), [("steered:+1", "residual_norm"), ("replaced", "default_projection")]
)
def test_an_imported_axis_that_lacks_numbers_is_refused(text, unknown, sources, engine):
    bare = replace(engine.axis, **{unknown: torch.full((8,), torch.nan)})
    with pytest.raises(MissingArtifactError, match=r"arm .*extract one: keel extract fake-0"):
        arm(text, replace(sources, axis=bare), engine)


def test_one_unknown_height_among_the_layers_is_enough_to_refuse_replacement(sources, engine):
    heights = engine.axis.default_projection.clone()
    heights[5] = torch.nan
    bare = replace(engine.axis, default_projection=heights)
    with pytest.raises(MissingArtifactError, match="where the default stands"):
        arm("replaced", replace(sources, axis=bare), engine)


def test_the_same_seed_makes_the_same_arms_and_another_seed_others(sources, engine):
    specs = parse_arms("random,shuffled:-0.5,in-span,random#2")

    def prints(seed: int) -> list[str]:
        return [one.fingerprint for one in make_arms(specs, sources, engine, seed=seed)]

    assert prints(0) == prints(0)
    # Another seed draws other controls; the unsteered arm stays as it is.
    assert [a == b for a, b in zip(prints(0), prints(1), strict=True)] == [True] + 4 * [False]
    assert len(set(prints(0))) == 5


def test_arms_that_do_different_things_have_different_fingerprints(sources, engine):
    floor = Floor(4, engine.axis.direction[4], 1.0)
    different = [
        (floor,),
        (replace(floor, value=1.5),),
        (replace(floor, layer=5),),
        (replace(floor, tokens="generated"),),
        (replace(floor, direction=-floor.direction),),
        (Ablation(4, floor.direction, 1.0),),
        (floor, floor),
    ]
    arms = [Arm("one", done) for done in different]
    arms += [Arm("one", (), Instruction("a")), Arm("one", (), Instruction("b"))]
    arms += [Arm("one", (), Instruction("a", is_repeated=True)), Arm("one")]
    assert len({made.fingerprint for made in arms}) == len(arms)


def test_name_and_note_do_not_change_a_fingerprint(engine):
    floors = band(engine, "one", 1.0).floors
    assert Arm("a", floors, note="x").fingerprint == Arm("b", floors).fingerprint


def test_a_model_that_can_only_be_talked_to_has_the_arms_of_words_alone():
    names = [one.name for one in spoken_arms(parse_arms("none,prompt,reprompt"))]
    assert names == ["none", "prompt", "reprompt"]
    with pytest.raises(UsageError, match="arms capped, steered:-0.5 reach into a model"):
        spoken_arms(parse_arms("prompt,capped,steered:-0.5"))
