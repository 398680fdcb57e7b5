"""Pairs of answers to one question, encouraged and discouraged in a trait: which of them differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keel.types import Judgement, Prompt

PairTest = Callable[[Judgement, Judgement], bool]
"""Whether the encouraged answer and the discouraged one, as judged, differ enough."""


@dataclass(frozen=True)
class Pairs:
    """How many pairs of answers a trait has."""

    pairs: int
    judged: int
    """Pairs of which both answers were judged."""
    differing: int
    """Of those, the pairs that differ enough."""

    @property
    def counted(self) -> int:
        """Pairs that speak for the trait: those that differ, or all where none was judged."""
        return self.differing if self.judged else self.pairs


def differ_in_score(by: float) -> PairTest:
    """A test on a judge's 0 to 100: the encouraged answer scores higher by so much.

    Lu et al. 2026, appendix C, ask for 50.
    """
    return lambda more, less: _score(more) - _score(less) >= by


def gain_together(by: float) -> PairTest:
    """A test on the likelihood judge's nats per token: what both answers gained from their prompts,
    on average. They then say different things, since their prompts contradict each other."""
    return lambda more, less: (_score(more) + _score(less)) / 2 >= by


def count_pairs(
    prompts: Sequence[Prompt],
    judgements: Mapping[str, Judgement] | None,
    differs: PairTest | None,
) -> dict[str, Pairs]:
    """Every trait among the prompts, with its pairs. Judgements are by rollout id."""
    found: dict[str, list[tuple[str, str]]] = {}
    for trait, more, less in _paired(prompts):
        found.setdefault(trait, []).append((more, less))
    return {trait: _count(ids, judgements or {}, differs) for trait, ids in found.items()}


def _paired(prompts: Sequence[Prompt]) -> list[tuple[str, str, str]]:
    """(trait, id of the encouraged prompt, id of the discouraged one)."""
    ids = {(p.side, p.system_index, p.question_index): p.id for p in prompts if p.side}
    return [
        (side.trait, id, ids[other])
        for (side, system, question), id in ids.items()
        if side.is_encouraged and (other := (side.opposite, system, question)) in ids
    ]


def _count(
    ids: Sequence[tuple[str, str]], judgements: Mapping[str, Judgement], differs: PairTest | None
) -> Pairs:
    judged = [(judgements[a], judgements[b]) for a, b in ids if a in judgements and b in judgements]
    scored = [(a, b) for a, b in judged if a.score is not None and b.score is not None]
    differing = sum(differs(a, b) for a, b in scored) if differs else len(scored)
    return Pairs(len(ids), len(judged), differing)


def _score(judgement: Judgement) -> float:
    assert judgement.score is not None
    return judgement.score
