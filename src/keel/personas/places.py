"""Which row and which question each rollout belongs to, and whether it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from keel.types import Prompt


@dataclass(frozen=True)
class Places:
    """Where each rollout belongs; those that do not count, or are of no prompt, have no row."""

    roles: tuple[str, ...]
    row: Mapping[str, int]
    """Rollout id -> 0 for the default, 1 + the role's place."""
    question: Mapping[str, int]
    """Rollout id -> rank of its question, for every prompt. Its parity is the question's half."""
    questions: int

    @classmethod
    def of(cls, prompts: Sequence[Prompt], is_counted: Callable[[Prompt], bool]) -> Places:
        """Places of the prompts' rollouts; the default's always count."""
        roles = tuple(dict.fromkeys(p.role for p in prompts if not p.is_default))
        rows = {role: 1 + n for n, role in enumerate(roles)}
        ranks = {q: n for n, q in enumerate(sorted({p.question_index for p in prompts}))}
        return cls(
            roles,
            {p.id: rows.get(p.role, 0) for p in prompts if p.is_default or is_counted(p)},
            {p.id: ranks[p.question_index] for p in prompts},
            len(ranks),
        )

    def keeping(self, roles: Sequence[str]) -> Places:
        """The places with the rows of the default and some roles only."""
        new = {0: 0, **{1 + self.roles.index(role): 1 + n for n, role in enumerate(roles)}}
        rows = {id: new[row] for id, row in self.row.items() if row in new}
        return replace(self, roles=tuple(roles), row=rows)

    def sampled(self, most: int, seed: int) -> Places:
        """At most so many rollouts of the default, and as many of all roles together."""
        # Apart, for at full scale the default's are one in three hundred.
        default = [id for id, row in self.row.items() if row == 0]
        playing = [id for id, row in self.row.items() if row > 0]
        draw = Random(seed)
        kept = [id for ids in (default, playing) for id in draw.sample(ids, min(most, len(ids)))]
        return replace(self, row={id: self.row[id] for id in kept})
