"""Activations with a known truth: an axis, a place on it for each role, questions, noise."""

from dataclasses import dataclass, field

import torch

from keel.personas import MapSettings, map_personas
from keel.types import ActivationBatch, Conversation, Message, ModelIdentity, Prompt

SETTINGS = MapSettings(min_count=2)
QUICK = MapSettings(min_count=2)
"""For tests that look at no interval."""
SPREAD = {f"role{n}": -1 + n / 8 for n in range(12)}
"""Roles at -1 to 0.375: all below the default."""


def mapped(planted, settings=SETTINGS, **more):
    return map_personas(
        planted.prompts, planted.batches, identity=planted.identity, settings=settings, **more
    )


@dataclass(frozen=True)
class Planted:
    """Rollouts of roles and the default; projection = place on the axis × strength of the layer."""

    places: dict[str, float]
    """Role -> place on the axis; the default's is 1."""
    questions: int = 8
    layers: int = 3
    hidden: int = 16
    noise: float = 0.3
    strengths: tuple[float, ...] = (1.0, 1.0, 1.0)
    seed: int = 0
    defaults: int = 3
    """System prompts of the default."""
    own: float = 0.0
    """How far each role, and the default, lies off the axis, per dimension."""
    dtype: torch.dtype = torch.float32
    prompts: list[Prompt] = field(init=False)
    means: dict[str, torch.Tensor] = field(init=False)
    direction: torch.Tensor = field(init=False)

    def __post_init__(self):
        draw = torch.Generator().manual_seed(self.seed)
        normal = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
        direction = torch.nn.functional.normalize(normal(self.hidden), dim=0)
        about = normal(self.questions, self.layers, self.hidden)
        common = 5 * normal(self.layers, self.hidden)
        own = torch.Generator().manual_seed(self.seed + 1)
        prompts, means = [], {}
        for role, place in [("default", 1.0), *self.places.items()]:
            aside = self.own * torch.randn(self.hidden, generator=own)
            for question in range(self.questions):
                for system in range(self.defaults if role == "default" else 1):
                    prompt = Prompt(
                        f"{role}/p{system}/q{question}",
                        Conversation((Message("user", str(question)),)),
                        role,
                        system,
                        question,
                    )
                    strength = torch.tensor(self.strengths)[:, None]
                    mean = common + 0.3 * about[question] + aside
                    mean = mean + place * strength * direction
                    prompts.append(prompt)
                    means[prompt.id] = mean + self.noise * normal(self.layers, self.hidden)
        object.__setattr__(self, "prompts", prompts)
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "direction", direction)

    @property
    def identity(self):
        return ModelIdentity("planted", self.layers, self.hidden)

    def of(self, role, layer=0):
        """Activations of a role's rollouts at a layer."""
        return [self.means[p.id][layer].double().numpy() for p in self.prompts if p.role == role]

    def batches(self, size=7, order=None):
        """The rollouts as they stream from disk."""
        ids = [p.id for p in self.prompts]
        ids = ids if order is None else [ids[n] for n in order]
        for start in range(0, len(ids), size):
            some = ids[start : start + size]
            means = torch.stack([self.means[id] for id in some]).to(self.dtype)
            yield ActivationBatch(tuple(some), means, means.float().norm(dim=-1))


def handmade(values):
    """Prompts and batches of one layer; of each role the answers to questions 0, 1, 2, ..."""
    rows = [(role, q, row) for role, answers in values.items() for q, row in enumerate(answers)]
    words = Conversation((Message("user", "?"),))
    prompts = [Prompt(f"{role}/q{q}", words, role, 0, q) for role, q, _ in rows]
    means = torch.tensor([list(map(float, row)) for _, _, row in rows], dtype=torch.float32)[
        :, None
    ]
    norms = means.norm(dim=-1)
    return prompts, lambda: [ActivationBatch(tuple(p.id for p in prompts), means, norms)]
