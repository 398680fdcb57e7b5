"""Trait space finds the traits that were planted, keeps those that differ, and knows the axis."""

import weakref
from dataclasses import dataclass, field

import pytest
import torch

from keel.errors import ModelMismatchError, NotFiniteError, TooFewSamplesError, UsageError
from keel.geometry import cosine
from keel.personas import TraitSettings, differ_in_score, gain_together, map_traits
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    Conversation,
    Judgement,
    Message,
    ModelIdentity,
    Prompt,
    TraitSide,
)

LAYERS, HIDDEN, QUESTIONS = 2, 24, 12
SETTINGS = TraitSettings(min_pairs=4, judged_pairs=4)
WORDS = Conversation((Message("user", "?"),))


@dataclass
class PlantedTraits:
    """Answers whose trait moves them by half a planted vector, up or down, off a shared middle."""

    vectors: dict[str, torch.Tensor]
    """Trait -> [hidden], the same at every layer."""
    default: torch.Tensor
    noise: float = 0.05
    seed: int = 0
    prompts: list[Prompt] = field(default_factory=list)
    means: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self):
        draw = torch.Generator().manual_seed(self.seed)
        common = 5 * torch.randn(LAYERS, HIDDEN, generator=draw)
        about = torch.randn(QUESTIONS, LAYERS, HIDDEN, generator=draw)
        at = {"default": self.default}
        for trait, vector in self.vectors.items():
            at[TraitSide(trait, True).role] = vector / 2
            at[TraitSide(trait, False).role] = -vector / 2
        for role, place in at.items():
            for question in range(QUESTIONS):
                prompt = Prompt(f"{role}0/q{question}", WORDS, role, 0, question)
                noise = self.noise * torch.randn(LAYERS, HIDDEN, generator=draw)
                self.prompts.append(prompt)
                self.means[prompt.id] = common + about[question] + place + noise

    @property
    def identity(self):
        return ModelIdentity("planted", LAYERS, HIDDEN)

    def batches(self, size=7):
        ids = list(self.means)
        for start in range(0, len(ids), size):
            some = ids[start : start + size]
            means = torch.stack([self.means[id] for id in some])
            yield ActivationBatch(tuple(some), means, means.norm(dim=-1))

    def mapped(self, settings=SETTINGS, **more):
        return map_traits(
            self.prompts, self.batches, identity=self.identity, settings=settings, **more
        )


def axis_along(direction):
    flat = torch.zeros(LAYERS)
    return AssistantAxis(
        direction.expand(LAYERS, HIDDEN).clone(),
        1,
        flat,
        flat,
        flat,
        ModelIdentity("planted", LAYERS, HIDDEN),
    )


def basis(place):
    return torch.nn.functional.one_hot(torch.tensor(place), HIDDEN).float()


VECTORS = {
    "calm": 2 * basis(0),
    "loud": -2 * basis(0) + basis(1),
    "kind": basis(1),
    "odd": 3 * basis(2),
}


def test_planted_trait_vectors_are_recovered():
    found = PlantedTraits(VECTORS, 0 * basis(0), noise=0).mapped()
    assert found.traits == tuple(VECTORS)
    for vector in found.vectors:
        # Without noise the question cancels: it is the same on both sides.
        expected = VECTORS[vector.trait].expand(LAYERS, HIDDEN)
        assert torch.allclose(vector.vector_LD, expected, atol=1e-5)
        assert (vector.pairs, vector.judged, vector.differing) == (QUESTIONS, 0, 0)


def test_a_trait_vector_is_the_difference_of_plain_means():
    planted = PlantedTraits(VECTORS, basis(3), noise=0.5)
    mean = lambda role: torch.stack(  # noqa: E731
        [planted.means[p.id] for p in planted.prompts if p.role == role]
    ).mean(0)
    for vector in planted.mapped().vectors:
        expected = mean(f"trait:{vector.trait}/+") - mean(f"trait:{vector.trait}/-")
        assert torch.allclose(vector.vector_LD, expected, atol=1e-5)


def test_cosines_with_the_axis_are_those_that_were_planted_at_every_layer():
    found = PlantedTraits(VECTORS, basis(0), noise=0.02).mapped(axis=axis_along(5 * basis(0)))
    assert found.layer == 1
    # calm lies along the axis; loud is (-2, 1), cosine -2/sqrt(5); the others are square to it.
    for layer in range(LAYERS):
        cosines = found.axis.cosine_LN[layer].tolist()
        assert cosines == pytest.approx([1, -0.894, 0, 0], abs=0.03)


def test_an_interval_holds_its_value_and_grows_with_the_noise():
    axis = axis_along(basis(0) + basis(1))
    widths = []
    for noise in (0.05, 0.5):
        lean = PlantedTraits(VECTORS, basis(0), noise=noise).mapped(axis=axis).axis
        assert bool((lean.low_LN <= lean.cosine_LN).all())
        assert bool((lean.cosine_LN <= lean.high_LN).all())
        widths.append(float((lean.high_LN - lean.low_LN).mean()))
    # Ten times the noise: the cosines' spread is about ten times as wide.
    assert widths[1] > 4 * widths[0] > 0


def test_noise_does_not_pull_cosines_to_nought():
    """Noise of 0.5 a side and question makes calm half as long again, its plain cosine 0.8; with
    the noise taken out it is the planted 1 give or take 0.1."""
    axis = axis_along(basis(0))
    found = PlantedTraits(VECTORS, basis(0), noise=1.0).mapped(axis=axis)
    plain = cosine(found.vectors[0].vector_LD, axis.vector)
    assert bool((found.axis.cosine_LN[:, 0] > plain).all())
    assert bool((found.axis.high_LN[:, 0] >= 1 - 1e-6).all())


def test_the_default_stands_between_the_sides_where_it_was_put():
    # A quarter of calm's vector above the middle: 0.5 + 0.5/2 = 0.75 of the way; loud, which goes
    # against it and is sqrt(5) long: 0.5 + (0.5 · -2)/5 = 0.3. Square to the others: the middle.
    found = PlantedTraits(VECTORS, 0.5 * basis(0), noise=0).mapped()
    for layer in range(LAYERS):
        places = found.default_position_LN[layer].tolist()
        assert places == pytest.approx([0.75, 0.3, 0.5, 0.5], abs=1e-4)


def test_the_default_lies_in_trait_space_by_its_own_displacement():
    found = PlantedTraits(VECTORS, 0.5 * basis(2), noise=0).mapped()
    space = found.space
    for layer in range(LAYERS):
        along = space.components_LKD[layer] @ (0.5 * basis(2))
        assert torch.allclose(space.default_coordinates_LK[layer], along, atol=1e-4)
        assert float(space.default_coordinates_LK[layer, 0]) > 0


def test_a_trait_whose_pairs_do_not_differ_in_score_is_dropped_and_listed():
    planted = PlantedTraits(VECTORS, basis(0))
    # odd scores 60 and 20: 40 apart; the others 90 and 40: 50 apart, just enough.
    scores = {True: 90.0, False: 40.0}, {True: 60.0, False: 20.0}
    judgements = {
        p.id: Judgement(p.id, "fully", scores[p.side.trait == "odd"][p.side.is_encouraged])
        for p in planted.prompts
        if p.side
    }
    found = planted.mapped(judgements=judgements, differs=differ_in_score(50))
    assert found.traits == ("calm", "loud", "kind")
    assert found.dropped == {"odd": 0}
    assert found.vectors[0].differing == QUESTIONS
    assert "odd (0)" in found.warnings[0]


def test_pairs_that_gain_from_their_prompts_together_differ():
    differs = gain_together(0.05)
    assert differs(0.14, -0.02)
    assert not differs(0.07, 0.02)


def test_a_pair_is_of_one_question_and_one_pair_of_prompts():
    planted = PlantedTraits(VECTORS, basis(0))
    planted.prompts = [p for p in planted.prompts if p.id != "trait:calm/-0/q3"]
    assert planted.mapped().vectors[0].pairs == QUESTIONS - 1


def test_few_pairs_are_judged_and_those_decide():
    planted = PlantedTraits(VECTORS, basis(0))
    some = [p for p in planted.prompts if p.side and p.question_index < 5]
    judgements = {p.id: Judgement(p.id, "fully", 0.2) for p in some}
    found = planted.mapped(judgements=judgements, differs=gain_together(0.05))
    assert [(v.pairs, v.judged, v.differing) for v in found.vectors] == [(12, 5, 5)] * 4


def test_roles_among_the_activations_change_nothing():
    planted = PlantedTraits(VECTORS, basis(0), noise=0.3)
    alone = planted.mapped(axis=axis_along(basis(0)))
    planted.means["ghost/p0/q0"] = 100 * torch.ones(LAYERS, HIDDEN)
    again = planted.mapped(axis=axis_along(basis(0)))
    assert torch.equal(alone.vectors[0].vector_LD, again.vectors[0].vector_LD)
    assert torch.equal(alone.axis.low_LN, again.axis.low_LN)


def test_no_batch_is_held_once_it_is_summed():
    planted, alive = PlantedTraits(VECTORS, basis(0)), []

    def watched():
        for batch in planted.batches(2):
            alive.append(weakref.ref(batch))
            assert sum(ref() is not None for ref in alive) <= 2
            yield batch
            del batch

    map_traits(planted.prompts, watched, identity=planted.identity, settings=SETTINGS)
    assert len(alive) > 20


def test_without_an_axis_the_map_is_read_in_the_middle():
    found = PlantedTraits(VECTORS, basis(0)).mapped()
    assert found.axis is None
    assert found.layer == LAYERS // 2


def test_too_few_traits_are_refused_with_how_many_pairs_they_have():
    planted = PlantedTraits(VECTORS, basis(0))
    with pytest.raises(TooFewSamplesError, match="0 of 4 traits have 13 pairs .* 12, 12, 12"):
        planted.mapped(TraitSettings(min_pairs=13))


def test_activations_of_another_model_and_broken_ones_are_refused():
    planted = PlantedTraits(VECTORS, basis(0))
    with pytest.raises(ModelMismatchError, match="2 layers × 24, and other has 3 × 24"):
        map_traits(
            planted.prompts,
            planted.batches,
            identity=ModelIdentity("other", 3, HIDDEN),
            settings=SETTINGS,
        )
    planted.means["trait:odd/-0/q2"][0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match="trait:odd/-0/q2"):
        planted.mapped()


def test_without_a_default_there_is_no_place_for_it():
    planted = PlantedTraits(VECTORS, basis(0))
    planted.prompts = [p for p in planted.prompts if not p.is_default]
    with pytest.raises(TooFewSamplesError, match="no default rollout"):
        planted.mapped()


def test_settings_that_no_trait_could_meet_are_refused():
    with pytest.raises(UsageError, match="judged_pairs is 5, expected min_pairs"):
        TraitSettings(min_pairs=10, judged_pairs=5)


def test_a_trait_and_a_role_of_one_name_are_two():
    side = TraitSide("stoic", False)
    assert TraitSide.of(side.role) == side
    assert side.role == "trait:stoic/-"
    assert TraitSide.of("stoic") is None
    assert TraitSide.of("trait:stoic") is None  # a role may be called so; no slash, no trait
    assert Prompt("a", WORDS, "stoic").is_role
    assert not Prompt("b", WORDS, side.role).is_role
