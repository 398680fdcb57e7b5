"""Activations with a known truth: an axis, a place on it for each role, questions, noise."""

from dataclasses import dataclass, field

import torch

from keel.types import ActivationBatch, Conversation, Message, ModelIdentity, Prompt


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
        prompts, means = [], {}
        for role, place in [("default", 1.0), *self.places.items()]:
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
                    mean = common + 0.3 * about[question] + place * strength * direction
                    prompts.append(prompt)
                    means[prompt.id] = mean + self.noise * normal(self.layers, self.hidden)
        object.__setattr__(self, "prompts", prompts)
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "direction", direction)

    @property
    def identity(self):
        return ModelIdentity("planted", self.layers, self.hidden)

    def batches(self, size=7, order=None):
        """The rollouts as they stream from disk."""
        ids = [p.id for p in self.prompts]
        ids = ids if order is None else [ids[n] for n in order]
        for start in range(0, len(ids), size):
            some = ids[start : start + size]
            means = torch.stack([self.means[id] for id in some]).to(self.dtype)
            yield ActivationBatch(tuple(some), means, means.float().norm(dim=-1))
