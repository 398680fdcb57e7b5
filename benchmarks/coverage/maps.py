"""Studies of maps and of comparisons: activations of roles, the default and traits, planted.

An answer's mean activation is what all share, plus its role's (or default prompt's) own vector, its
question's, what the question does to this role alone, and noise. The population's axis, principal
component and traits are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.random import Generator

from benchmarks.coverage.studies import Known, Statement, Study
from keel.compare import CompareSettings, RunMaps, compare_maps
from keel.personas import MapSettings, TraitSettings, map_personas, map_traits
from keel.statistics import Floats
from keel.types import (
    ActivationBatch,
    Conversation,
    Interval,
    Message,
    ModelIdentity,
    PersonaMap,
    Prompt,
    TraitMap,
)

_HIDDEN = 48
_WORDS = Conversation((Message("user", "?"),))
_IDENTITY = ModelIdentity("planted", 1, _HIDDEN)
_MAPPING = MapSettings(min_count=2)
_TRAITS = TraitSettings(min_pairs=2, judged_pairs=2)
_OTHERS = 4000
"""Roles that were not asked, for what correlations over roles are about."""
_COSINES = {"a": 0.0, "b": 0.3, "c": 0.5, "d": 0.9}
"""Trait -> planted cosine with the axis."""
_COMPARED = 16
"""Traits of two runs that are compared."""


@dataclass(frozen=True)
class Library:
    """How many roles, questions and default prompts are drawn, and how far answers scatter."""

    roles: int
    questions: int
    noise: float
    defaults: int = 5

    @property
    def words(self) -> str:
        """`20 roles × 20 questions, noise 1`."""
        return f"{self.roles} roles × {self.questions} questions, noise {self.noise:g}"


LIBRARIES = (Library(12, 12, 1.0), Library(50, 12, 1.0), Library(20, 40, 3.0), Library(50, 40, 0.5))


def studies() -> Iterator[Study]:
    """Each library's map, and two runs of each library compared."""
    truths = {"|cos(axis, PC1)|": _ALIGNED}
    for library in LIBRARIES:
        draws = 200 if library.roles * library.questions < 1000 else 100
        yield Study("maps", library.words, partial(_maps, library), draws, truths)
    for library in LIBRARIES[:2]:
        for cos in (0.0, 0.6, 0.95):
            words = f"{library.words}, axes near {cos:g}"
            yield Study("comparisons", words, partial(_runs, library, cos), 100)


# --- what is planted ---

_ALIGNED = 0.7


@dataclass(frozen=True)
class _Planted:
    """Directions of one population: its axis, its roles' main component, and aside from both."""

    axis_D: Floats
    component_D: Floats

    @classmethod
    def of(cls, cos: float = 1.0) -> _Planted:
        """With an axis at this cosine to the first population's."""
        basis_DD = np.eye(_HIDDEN)
        axis_D = cos * basis_DD[0] + (1 - cos**2) ** 0.5 * basis_DD[1]
        aside_D = basis_DD[2]
        return cls(axis_D, _ALIGNED * axis_D + (1 - _ALIGNED**2) ** 0.5 * aside_D)

    def trait(self, cos: float, number: int) -> Floats:
        """A trait's vector, at this cosine to the axis."""
        aside_D = np.eye(_HIDDEN)[10 + number]
        return np.asarray(cos * self.axis_D + (1 - cos**2) ** 0.5 * aside_D)


def _rollouts(
    library: Library,
    planted: _Planted,
    draws: _Draws,
    rng: Generator,
    cosines: Mapping[str, float],
) -> tuple[list[Prompt], ActivationBatch]:
    """Answers of the default under its prompts, of roles, and of both sides of each trait."""
    prompts, rows = [], []
    for prompt_D, role, system in draws.kinds(library, planted, cosines):
        interaction_QD = 0.15 * rng.normal(size=(library.questions, _HIDDEN))
        noise_QD = 0.3 * library.noise * rng.normal(size=(library.questions, _HIDDEN))
        rows.append(5 + prompt_D + draws.question_QD + interaction_QD + noise_QD)
        prompts += [
            Prompt(f"{role}/p{system}/q{question}", _WORDS, role, system, question)
            for question in range(library.questions)
        ]
    means_BLD = torch.from_numpy(np.concatenate(rows)).float()[:, None]
    ids = tuple(prompt.id for prompt in prompts)
    return prompts, ActivationBatch(ids, means_BLD, means_BLD.norm(dim=-1))


@dataclass(frozen=True)
class _Draws:
    """Roles, default prompts and questions, drawn: two runs of one library share them."""

    role_RD: Floats
    """Aside from the component."""
    along_R: Floats
    """Along the component."""
    default_PD: Floats
    question_QD: Floats

    @classmethod
    def of(cls, library: Library, rng: Generator) -> _Draws:
        """As many as the library has."""
        return cls(
            0.1 * rng.normal(size=(library.roles, _HIDDEN)),
            0.8 * rng.normal(size=library.roles),
            0.08 * rng.normal(size=(library.defaults, _HIDDEN)),
            0.4 * rng.normal(size=(library.questions, _HIDDEN)),
        )

    def kinds(
        self, library: Library, planted: _Planted, traits: Mapping[str, float]
    ) -> Iterator[tuple[Floats, str, int]]:
        """The own vector of each default prompt, role and side of a trait, with its name."""
        for system in range(library.defaults):
            yield planted.axis_D + self.default_PD[system], "default", system
        for role in range(library.roles):
            own_D = self.role_RD[role] + self.along_R[role] * planted.component_D
            yield own_D, f"role{role}", 0
        for number, (trait, cos) in enumerate(traits.items()):
            vector_D = planted.trait(cos, number)
            yield vector_D / 2, f"trait:{trait}/+", 0
            yield -vector_D / 2, f"trait:{trait}/-", 0

    def true_axis(self, planted: _Planted) -> Floats:
        """The axis without noise: of the whole population of roles, and of these default prompts,
        which say what the default is."""
        return np.asarray(planted.axis_D + self.default_PD.mean(0))


def _mapped(
    library: Library,
    planted: _Planted,
    draws: _Draws,
    rng: Generator,
    cosines: Mapping[str, float] = _COSINES,
) -> tuple[PersonaMap, TraitMap]:
    """Keel's maps of one run."""
    prompts, batch = _rollouts(library, planted, draws, rng, cosines)
    of_roles = [prompt for prompt in prompts if prompt.side is None]
    of_traits = [prompt for prompt in prompts if not prompt.is_role]
    roles = map_personas(of_roles, lambda: [batch], identity=_IDENTITY, settings=_MAPPING)
    traits = map_traits(
        of_traits,
        lambda: [batch],
        identity=_IDENTITY,
        axis=roles.axis,
        roles=roles,
        settings=_TRAITS,
    )
    return roles, traits


# --- what Keel states ---


def _maps(library: Library, rng: Generator) -> Mapping[str, Statement]:
    """A map's intervals: AUC and d′ have the mean of all draws as their truth."""
    draws, planted = _Draws.of(library, rng), _Planted.of()
    roles, traits = _mapped(library, planted, draws, rng)
    at = roles.quality[0]
    stated: dict[str, Statement] = {
        "held-out AUC": at.auc,
        "held-out d′": at.d_prime,
        "|cos(axis, PC1)|": at.cos_pc1,
    }
    standing, along_D = roles.standings["role0"], roles.axis.direction[0].double().numpy()
    own_RD = draws.role_RD + draws.along_R[:, None] * planted.component_D
    above = float((own_RD[0] - own_RD.mean(0)) @ along_D) / float(roles.axis.gap[0])
    stated["a role's standing"] = Known(standing, above)
    assert traits.axis is not None
    parts = (traits.axis.cosine_LN, traits.axis.low_LN, traits.axis.high_LN)
    for column, trait in enumerate(traits.traits):
        interval = Interval(*(float(part[0, column]) for part in parts))
        vector_D = planted.trait(_COSINES[trait], column)
        truth = _cosine(vector_D, draws.true_axis(planted))
        stated[f"cosine of a trait with the axis, near {_COSINES[trait]:g}"] = Known(
            interval, truth
        )
    return stated


def _runs(library: Library, cos: float, rng: Generator) -> Mapping[str, Statement]:
    """What `keel compare` states of two runs of one library, whose populations differ."""
    draws, populations = _Draws.of(library, rng), (_Planted.of(), _Planted.of(cos))
    leanings = _leanings(rng)
    maps = [
        RunMaps(str(number), _IDENTITY, *_mapped(library, planted, draws, rng, cosines))
        for number, (planted, cosines) in enumerate(zip(populations, leanings, strict=True))
    ]
    found = compare_maps(*maps, CompareSettings(components=2))
    assert found.roles is not None
    assert found.standings is not None
    assert found.axes is not None
    assert found.leanings is not None
    assert found.role_vectors is not None
    truth = _cosine(*(draws.true_axis(planted) for planted in populations))
    others = [_others(library, planted, draws, rng) for planted in populations]
    kept = [each.roles for each in maps if each.roles is not None]
    along = [
        others_ND @ each.axis.direction[0].double().numpy()
        for others_ND, each in zip(others, kept, strict=True)
    ]
    loadings = [_loadings(others_ND, each) for others_ND, each in zip(others, kept, strict=True)]
    return {
        "compare: correlation on PC1": Known(found.roles.components[0], _correlated(*loadings)),
        "compare: correlation of standings": Known(found.standings, _correlated(*along)),
        "compare: correlation of traits' cosines": found.leanings,
        "compare: cosine of axes": Known(found.axes[0], truth),
        "compare: mean cosine of role vectors": found.role_vectors.by_layer[0],
    }


def _leanings(rng: Generator) -> list[dict[str, float]]:
    """Traits' cosines with the axis in each of two runs, which correlate with about 0.6."""
    first_T, own_T = rng.uniform(-0.9, 0.9, size=(2, _COMPARED))
    return [
        {f"trait{n}": float(cos) for n, cos in enumerate(of_run_T)}
        for of_run_T in (first_T, 0.6 * first_T + 0.8 * own_T.clip(-0.45, 0.45))
    ]


def _others(library: Library, planted: _Planted, draws: _Draws, rng: Generator) -> Floats:
    """Vectors that very many other roles would have in one run, asked the same questions.

    The roles are the same in both runs, the noise of their answers is not.
    """
    shared = np.random.default_rng(draws.along_R[:4].view(np.uint64).tolist())
    many = _Draws.of(replace(library, roles=_OTHERS), shared)
    own_ND = many.role_RD + many.along_R[:, None] * planted.component_D
    noise = (0.15**2 + (0.3 * library.noise) ** 2) ** 0.5 / library.questions**0.5
    common_D = 5 + draws.question_QD.mean(0)
    return np.asarray(common_D + own_ND + noise * rng.normal(size=own_ND.shape))


def _loadings(others_ND: Floats, of_run: PersonaMap) -> Floats:
    """What other roles would load on the run's first component."""
    centred_ND = others_ND - of_run.space.mean_LD[0].double().numpy()
    along_N = centred_ND @ of_run.space.components_LKD[0, 0].double().numpy()
    return np.asarray(along_N / np.linalg.norm(centred_ND, axis=1))


def _correlated(first_N: Floats, second_N: Floats) -> float:
    return float(np.corrcoef(first_N, second_N)[0, 1])


def _cosine(first_D: Floats, second_D: Floats) -> float:
    return float(first_D @ second_D / np.linalg.norm(first_D) / np.linalg.norm(second_D))
