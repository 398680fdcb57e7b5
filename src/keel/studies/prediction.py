"""How well a user's message predicts the next answer's level, beside what needs no message.

Everything is predicted for people whom the fit has not seen. A row without its null and without the
rows of position, subject and previous level beside it says little: turns of a conversation share a
level, and `change` goes back to the mean by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from keel.statistics import (
    FEWEST_LEVELS,
    Clusters,
    Codes,
    Floats,
    clustered_correlation,
    jackknifed,
)
from keel.studies.ridge import OutOfFold, deal_folds, ridge_in_sample, ridge_out_of_fold
from keel.studies.trajectories import TurnPoint
from keel.types import NEUTRAL_DOMAIN, Interval, PredictionRow

OUTER_FOLDS = 5
FEWEST_PEOPLE = 2
"""In each domain: with fewer nobody is left to predict."""
_KNOWN = 10.0
"""Length of columns that are not words, beside words of length 1: hardly penalised."""
_LEFT_OUT = 10
"""Groups of people behind an interval, at most."""
_PROMPT = "prompt's last token"

Features = Mapping[str, Floats]
"""Name -> columns."""


@dataclass(frozen=True)
class MessageTable:
    """Messages with the level of their answers, as columns; neutral conversations are not in it."""

    points: tuple[TurnPoint, ...]
    previous_N: Floats
    """Level of the answer before; NaN at the first turn."""
    before_N: Floats
    """Tokens of the answer before, logarithm; 0 at the first turn."""
    words_ND: Floats
    """Embedding of each message, unit length."""
    prompts_N: Floats
    """Level of the prompt's last token; NaN where it was not recorded."""

    @classmethod
    def of(
        cls, points: Sequence[TurnPoint], embed: Callable[[Sequence[str]], Floats]
    ) -> MessageTable:
        """The messages of one arm's conversations whose answers were read.

        Each text is embedded once.
        """
        by_turn = {(point.conversation, point.turn): point for point in points}
        kept = [
            point
            for point in points
            if point.domain != NEUTRAL_DOMAIN and np.isfinite(point.with_history)
        ]
        before = [by_turn.get((point.conversation, point.turn - 1)) for point in kept]
        texts = sorted({point.message for point in kept})
        rows = dict(zip(texts, np.asarray(embed(texts), np.float64), strict=True)) if texts else {}
        words_ND = np.stack([rows[point.message] for point in kept]) if kept else np.zeros((0, 1))
        words_ND = words_ND / np.maximum(np.linalg.norm(words_ND, axis=1, keepdims=True), 1e-12)
        return cls(
            tuple(kept),
            np.array([np.nan if each is None else each.with_history for each in before]),
            np.log1p([0 if each is None else each.tokens for each in before]),
            words_ND,
            np.array([point.prompt for point in kept]),
        )

    def only(self, kept_N: np.typing.NDArray[np.bool_]) -> MessageTable:
        """Some of the messages."""
        points = tuple(point for point, is_kept in zip(self.points, kept_N, strict=True) if is_kept)
        return MessageTable(
            points,
            self.previous_N[kept_N],
            self.before_N[kept_N],
            self.words_ND[kept_N],
            self.prompts_N[kept_N],
        )

    @cached_property
    def later(self) -> MessageTable:
        """Messages whose answer has one before it."""
        return self.only(np.isfinite(self.previous_N))

    @cached_property
    def levels_N(self) -> Floats:
        """Gap units."""
        return np.array([point.with_history for point in self.points])

    @cached_property
    def people_N(self) -> Codes:
        """Code of each message's person."""
        return _codes([point.person for point in self.points])

    @cached_property
    def domains_N(self) -> Codes:
        """Code of each message's domain."""
        return _codes([point.domain for point in self.points])

    @cached_property
    def cells_N(self) -> Codes:
        """Code of each message's domain and turn."""
        return _codes([f"{point.domain} {point.turn:03d}" for point in self.points])

    @cached_property
    def turns_N(self) -> Codes:
        """Code of each message's turn."""
        return _codes([f"{point.turn:03d}" for point in self.points])

    @cached_property
    def folds_N(self) -> Codes:
        """Outer fold of each message: whole people, each fold of every domain."""
        return deal_folds(self.people_N, self.domains_N, OUTER_FOLDS)

    @cached_property
    def words_NK(self) -> Floats:
        """The embeddings in as few columns as hold them: often lines are fewer than dimensions."""
        centred_ND = self.words_ND - self.words_ND.mean(0)
        _, sizes_K, axes_KD = np.linalg.svd(centred_ND, full_matrices=False)
        rotated_NK: Floats = centred_ND @ axes_KD[sizes_K > 1e-9].T
        return rotated_NK

    @cached_property
    def features(self) -> Features:
        """Columns by name; words have length 1, the others ten times that."""
        sent_N = np.log1p([len(point.message) for point in self.points])
        previous_N1 = np.nan_to_num(self.previous_N)[:, None]
        return {
            "turn": _KNOWN * _indicators(self.turns_N),
            "domain": _KNOWN * _indicators(self.domains_N),
            "domain x turn": _KNOWN * _indicators(self.cells_N),
            "previous level": _KNOWN * _standard(previous_N1),
            "lengths": _KNOWN * _standard(np.stack([sent_N, self.before_N], 1)),
            _PROMPT: _KNOWN * _standard(np.nan_to_num(self.prompts_N)[:, None]),
            "words": self.words_NK,
        }

    @property
    def has_prompts(self) -> bool:
        """Whether the prompt's last token was read before every answer."""
        return bool(len(self.prompts_N)) and bool(np.isfinite(self.prompts_N).all())

    @property
    def is_enough(self) -> bool:
        """Whether every domain has people to fit on and others to predict."""
        people: dict[str, set[str]] = {}
        for point in self.points:
            people.setdefault(point.domain, set()).add(point.person)
        return bool(people) and min(map(len, people.values())) >= FEWEST_PEOPLE


_BASE = ("domain x turn", "previous level")
"""What is known before the words are."""


def predict_levels(
    table: MessageTable, *, permutations: int = 99, seed: int = 0
) -> tuple[PredictionRow, ...]:
    """R² of each set of columns, out of fold by person, with intervals over people and nulls.

    Nulls permute what the words are to explain within domain x turn (Freedman and Lane 1983,
    Journal of Business & Economic Statistics 1:292). () where people are too few.
    """
    if not table.is_enough or not table.later.is_enough:
        return ()
    chance = np.random.default_rng(seed)
    parts = _Parts.of(table, table.levels_N[:, None])
    level = _Target("level", table, table.levels_N, permutations, chance, parts, 0)
    later = table.later
    targets_NY = np.stack([later.levels_N, later.levels_N - later.previous_N], axis=1)
    parts = _Parts.of(later, targets_NY)
    following, change = (
        _Target(name, later, targets_NY[:, column], permutations, chance, parts, column)
        for column, name in enumerate(("level after the first turn", "change"))
    )
    rows = [level.row(name) for name in ("turn", "domain", "domain x turn")]
    rows += [level.row("words", has_null=True), *level.other_folds()]
    if table.has_prompts:
        rows.append(level.row(_PROMPT, has_null=True))
    for target in (following, change):
        rows += [target.row("previous level"), target.row(*_BASE), target.row(*_BASE, "lengths")]
        rows += [target.row("words", has_null=True), *target.what_adds("words", "what words add")]
        if table.has_prompts:
            rows.append(target.row(_PROMPT, has_null=True))
            rows.append(target.what_adds(_PROMPT, f"what the {_PROMPT} adds")[1])
    return (*rows, change.in_sample())


def prompt_correlation(points: Sequence[TurnPoint]) -> Interval | None:
    """Correlation of the prompt's last token's level with the answer's, over people.

    None where either is not known or does not vary, or people are fewer than five.
    """
    known = [p for p in points if np.isfinite(p.prompt) and np.isfinite(p.with_history)]
    prompts_N = np.array([point.prompt for point in known])
    levels_N = np.array([point.with_history for point in known])
    people = [point.person for point in known]
    if len(set(people)) < FEWEST_LEVELS or not (np.ptp(prompts_N) and np.ptp(levels_N)):
        return None
    clusters = Clusters.of([{"person": person} for person in people])
    return clustered_correlation(prompts_N, levels_N, clusters)


def innovations(table: MessageTable) -> Floats:
    """How far each later answer lies from what was to be expected; gap units.

    Expected from domain, turn and the answer before it, as other people's conversations have them.
    """
    later = table.later
    target_N1 = later.levels_N[:, None]
    features_NP = np.concatenate([later.features[name] for name in _BASE], axis=1)
    fitted = ridge_out_of_fold(
        features_NP, target_N1, later.folds_N, later.people_N, later.domains_N
    )
    innovation_N: Floats = (target_N1 - fitted.predicted_NY)[:, 0]
    return innovation_N


@dataclass(frozen=True)
class _Parts:
    """Messages without each group of people in turn, and what columns explain of these.

    All targets are fitted at once, and no columns twice: what takes long hangs on columns alone.
    """

    tables: tuple[MessageTable, ...]
    """Empty where too few people are left."""
    targets: tuple[Floats, ...]
    """A column per target, for each part."""
    known: dict[tuple[str, ...], Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, table: MessageTable, targets_NY: Floats) -> _Parts:
        """Each part without one group, some people of every domain."""
        groups_N = deal_folds(table.people_N, table.domains_N, _LEFT_OUT)
        kept = [groups_N != group for group in np.unique(groups_N)]
        tables = tuple(table.only(kept_N) for kept_N in kept)
        if not all(part.is_enough for part in tables):
            return cls((), ())
        return cls(tables, tuple(targets_NY[kept_N] for kept_N in kept))

    def r2(self, names: tuple[str, ...]) -> Floats:
        """R² of these columns out of fold, a row per part and a column per target."""
        if names not in self.known:
            pairs = zip(self.tables, self.targets, strict=True)
            self.known[names] = np.array([_fitted(*pair, names).r2(pair[1]) for pair in pairs])
        return self.known[names]


@dataclass(frozen=True)
class _Target:
    """One number to be predicted of each message."""

    name: str
    table: MessageTable
    target_N: Floats
    permutations: int
    chance: np.random.Generator
    parts: _Parts
    column: int
    """Which of the parts' targets this is."""

    def row(self, *names: str, has_null: bool = False) -> PredictionRow:
        targets_NY = self.target_N[:, None]
        if has_null:
            targets_NY = np.column_stack([targets_NY, self._permuted(self.target_N)])
        r2_Y = _fitted(self.table, targets_NY, names).r2(targets_NY)
        null = float(np.percentile(r2_Y[1:], 95)) if has_null else None
        interval = self._interval(float(r2_Y[0]), self._of_parts(names))
        return PredictionRow(self.name, " + ".join(names), interval, null, len(self.target_N))

    def what_adds(self, columns: str, name: str) -> tuple[PredictionRow, PredictionRow]:
        """The base with further columns, and by how much R² is higher than without them."""
        fitted_N = _fitted(self.table, self.target_N[:, None], _BASE).predicted_NY[:, 0]
        residual_NS = self._permuted(self.target_N - fitted_N)
        targets_NY = np.column_stack([self.target_N, fitted_N[:, None] + residual_NS])
        full = (*_BASE, columns)
        base_Y = _fitted(self.table, targets_NY, _BASE).r2(targets_NY)
        full_Y = _fitted(self.table, targets_NY, full).r2(targets_NY)
        null = float(np.percentile((full_Y - base_Y)[1:], 95))
        count = len(self.target_N)
        of_both = self._interval(float(full_Y[0]), self._of_parts(full))
        added = self._interval(
            float(full_Y[0] - base_Y[0]), self._of_parts(full) - self._of_parts(_BASE)
        )
        return (
            PredictionRow(self.name, " + ".join(full), of_both, None, count),
            PredictionRow(self.name, f"{name} to these", added, null, count),
        )

    def other_folds(self) -> tuple[PredictionRow, ...]:
        """Words by folds that know the people, by whole domains, and in sample."""
        kinds = ["words, people known (random folds)"]
        if len(np.unique(self.table.domains_N)) > 2:
            kinds.append("words, a domain left out")
        rows = []
        for kind in kinds:
            pairs = zip(self.parts.tables, self.parts.targets, strict=True)
            of_parts = [_words_r2(part, target[:, self.column], kind) for part, target in pairs]
            value = _words_r2(self.table, self.target_N, kind)
            interval = self._interval(value, np.array(of_parts))
            rows.append(PredictionRow(self.name, kind, interval, None, len(self.target_N)))
        return (*rows, self.in_sample())

    def in_sample(self) -> PredictionRow:
        """What Lu et al.'s code reports: R² on the rows that were fitted."""
        table = self.table
        (value,) = ridge_in_sample(
            table.words_ND, self.target_N[:, None], table.people_N, table.domains_N
        )
        alone = Interval(float(value), -np.inf, np.inf)
        name = "words, in sample (as published)"
        return PredictionRow(self.name, name, alone, None, len(self.target_N), is_in_sample=True)

    def _permuted(self, values_N: Floats) -> Floats:
        """The values permuted within domain x turn, a column for each time."""
        permuted_NS = np.repeat(values_N[:, None], self.permutations, axis=1)
        for cell in np.unique(self.table.cells_N):
            rows = np.flatnonzero(self.table.cells_N == cell)
            order_CS = self.chance.random((len(rows), self.permutations)).argsort(0)
            permuted_NS[rows] = values_N[rows][order_CS]
        return permuted_NS

    def _of_parts(self, names: tuple[str, ...]) -> Floats:
        """R² of these columns in each part."""
        of_parts = self.parts.r2(names)
        return of_parts[:, self.column] if len(of_parts) else of_parts

    def _interval(self, value: float, of_parts: Floats) -> Interval:
        """R², or a difference of two, with the jackknife's interval over groups of people.

        Each group is left out of folds and fits alike, since what is fitted hangs on the people,
        too (Efron and Stein 1981, Annals of Statistics 9:586). Infinite where too few are left.
        """
        if not len(of_parts):
            return Interval(value, -np.inf, np.inf)
        return jackknifed([of_parts]).interval(value)


def _fitted(table: MessageTable, targets_NY: Floats, names: Sequence[str]) -> OutOfFold:
    """Targets predicted from these columns, out of fold by person."""
    features_NP = np.concatenate([table.features[name] for name in names], axis=1)
    return ridge_out_of_fold(
        features_NP, targets_NY, table.folds_N, table.people_N, table.domains_N
    )


def _words_r2(table: MessageTable, target_N: Floats, kind: str) -> float:
    """R² of the words by one of the other ways to deal folds."""
    each_N = np.arange(len(target_N))
    dealt = table.domains_N, table.people_N, table.domains_N
    if "random" in kind:
        random_N = np.random.default_rng(0).permutation(each_N) % OUTER_FOLDS
        dealt = random_N, each_N, np.zeros_like(each_N)
    targets_N1 = target_N[:, None]
    return float(ridge_out_of_fold(table.words_NK, targets_N1, *dealt).r2(targets_N1)[0])


def _codes(names: Sequence[str]) -> Codes:
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1].reshape(-1)


def _indicators(codes_N: Codes) -> Floats:
    return np.eye(int(codes_N.max(initial=0)) + 1)[codes_N]


def _standard(columns_NP: Floats) -> Floats:
    centred_NP = columns_NP - columns_NP.mean(0)
    scaled_NP: Floats = centred_NP / np.maximum(centred_NP.std(0), 1e-12)
    return scaled_NP
