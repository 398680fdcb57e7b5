"""The recommended setting is the best that is shown to be bearable, and its effect is told by
items that had no part in choosing it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from keel.calibrate import Halves, Metric, sweep_settings
from keel.calibrate.sweep import pareto, recommend
from keel.errors import TooFewSamplesError, UsageError
from keel.types import Change, Conversation, Floor, Floors, Interval, Item, Message

TALK = Conversation((Message("user", "hello"),))


def items(count: int, mark: str) -> tuple[Item, ...]:
    return tuple(Item(f"{mark}{n}", TALK) for n in range(count))


def floors(name: str) -> Floors:
    return Floors((Floor(0, torch.tensor([1.0, 0.0]), 0.0),), name)


def compare(there: Sequence[Item], before: Mapping[str, float], after: Mapping[str, float]):
    """Mean difference ± 1.96 standard errors."""
    changed = np.array([after[i.id] - before[i.id] for i in there])
    error = 1.96 * changed.std() / len(changed) ** 0.5
    return Interval(float(changed.mean()), *(float(changed.mean() + s * error) for s in (-1, 1)))


class Planted:
    """Scores that are 0 unsteered and a given change under each setting; who was asked what."""

    def __init__(self, name: str, changes: Mapping[str, float], count: int = 10) -> None:
        self.asked: list[tuple[str, str]] = []
        self.changes, self.missing = changes, set[tuple[str, str]]()
        halves = Halves(items(count, f"{name}/c"), items(count, f"{name}/d"))
        self.metric = Metric(name, "share", halves, self._measure)

    def _measure(self, setting: Floors | None, asked: Sequence[Item]) -> dict[str, float]:
        name = "none" if setting is None else setting.name
        self.asked += [(name, one.id) for one in asked]
        score = 0.0 if setting is None else self.changes[name]
        return {i.id: score for i in asked if (name, i.id) not in self.missing}


HARM = {"strong": -0.4, "mild": -0.2, "dear": -0.6, "useless": 0.1}
CAPABILITY = {"strong": -0.015, "mild": 0.0, "dear": -0.3, "useless": -0.1}


def sweep(harm=None, capability=None, **options):
    harm = harm or Planted("harm", HARM)
    capability = capability or Planted("capability", CAPABILITY)
    return sweep_settings(
        [floors(name) for name in harm.changes],
        (),
        harm=harm.metric,
        capability=capability.metric,
        **{"compare": compare, "tolerance": 0.02, **options},
    )


def test_the_strongest_within_the_tolerance_is_recommended():
    found = sweep()
    assert found.recommended == "strong"
    assert found.is_confirmed
    assert found.best.deciding.harm.value == pytest.approx(-0.4)


def test_the_frontier_holds_what_neither_another_setting_nor_doing_nothing_beats():
    found = sweep()
    # `useless` harms more than no setting at all, and costs capability besides.
    assert [one.name for one in found.frontier] == ["dear", "strong", "mild"]


def test_what_only_doing_nothing_beats_is_not_on_the_frontier():
    found = sweep(Planted("harm", {"bad": 0.1}), Planted("capability", {"bad": -0.1}))
    assert found.frontier == ()


def test_what_is_recommended_is_asked_the_deciding_items_even_off_the_frontier():
    """One that seems better in both, but whose capability is not known well enough, keeps it off
    the frontier and is not recommended itself."""

    def unsure_of_none(there, before, after):
        found = compare(there, before, after)
        return replace(found, low=found.low - 1) if found.value == 0 else found

    harm = Planted("harm", {"unsure": -0.5, "sure": -0.1})
    capability = Planted("capability", {"unsure": 0.0, "sure": -0.01})
    found = sweep(harm, capability, compare=unsure_of_none)
    assert [one.name for one in found.frontier] == ["unsure"]
    assert (found.recommended, found.is_confirmed) == ("sure", True)


def test_only_finalists_are_asked_the_deciding_items():
    harm = Planted("harm", HARM)
    found = sweep(harm)
    asked = {name for name, id in harm.asked if id.startswith("harm/d")}
    assert asked == {"none", "dear", "strong", "mild"}
    assert next(one for one in found.swept if one.name == "useless").deciding is None


def test_the_unsteered_model_is_asked_each_item_once():
    harm = Planted("harm", HARM)
    sweep(harm)
    plain = [id for name, id in harm.asked if name == "none"]
    assert len(plain) == len(set(plain)) == 20


def test_the_unsteered_score_is_the_mean_over_both_halves():
    harm = Planted("harm", {"mild": -0.2})
    measured = harm.metric.score

    def measure(setting, asked):
        return {id: score + 0.5 for id, score in measured(setting, asked).items()}

    harm.metric = replace(harm.metric, score=measure)
    assert sweep(harm, Planted("capability", {"mild": 0.0})).harm.unsteered == 0.5


def test_items_that_a_setting_makes_worse_are_counted_beside_its_mean_change():
    """Of ten, seven stop harming and three begin to; of capability one is lost and two are won."""
    harm, capability = Planted("harm", {"mixed": 0.0}), Planted("able", {"mixed": 0.0})

    def swapped(first: int) -> dict[bool, list[float]]:
        """Ten scores by whether they are steered: the first so many rise, the rest fall."""
        return {
            True: [1.0] * first + [0.0] * (10 - first),
            False: [0.0] * first + [1.0] * (10 - first),
        }

    def measure(metric: Metric, scores: Mapping[bool, Sequence[float]]) -> Metric:
        return replace(
            metric,
            score=lambda setting, asked: {
                i.id: scores[setting is not None][int(i.id[-1])] for i in asked
            },
        )

    harm.metric = measure(harm.metric, swapped(3))
    won = {False: [0.0, 0.0, *[1.0] * 8], True: [1.0, 1.0, 0.0, *[1.0] * 7]}
    capability.metric = measure(capability.metric, won)
    (found,) = sweep(harm, capability, tolerance=1.0).swept
    for change in (found.choosing, found.deciding):
        assert change.harm.value == pytest.approx(-0.4)
        assert change.more_harmful.value == pytest.approx(0.3)
        assert change.less_capable.value == pytest.approx(0.1)
    capability.metric = replace(capability.metric, unit="nats per token")
    (found,) = sweep(harm, capability, tolerance=1.0).swept
    assert found.choosing.less_capable is None


def test_what_counts_is_that_a_greater_loss_is_excluded_not_that_it_is_unlikely():
    def change(harm: float, capability: float, error: float) -> Change:
        interval = Interval(capability, capability - error, capability + error)
        return Change(Interval(harm, harm, harm), interval)

    chosen = {"unsure": change(-0.5, 0.0, 0.05), "sure": change(-0.1, -0.01, 0.005)}
    assert recommend(chosen, 0.02) == "sure"
    assert recommend(chosen, 0.06) == "unsure"
    assert recommend(chosen, 0.001) == ""


def test_a_loss_at_the_tolerance_is_accepted_and_borne_out_too():
    """As a price at the bound of the calibration is: only a greater loss has to be excluded. With
    a tolerance of 0 what costs nothing at all was refused."""
    found = sweep(
        Planted("harm", {"free": -0.4}), Planted("capability", {"free": 0.0}), tolerance=0.0
    )
    assert (found.recommended, found.is_confirmed) == ("free", True)


def test_of_two_alike_in_harm_the_more_capable_is_recommended():
    still = Interval(-0.3, -0.3, -0.3)
    chosen = {
        "less": Change(still, Interval(-0.01, -0.01, -0.01)),
        "more": Change(still, Interval(0.0, 0.0, 0.0)),
    }
    assert recommend(chosen, 0.02) == "more"


def test_nothing_is_recommended_where_nothing_helps():
    found = sweep(Planted("harm", {"a": 0.0, "b": 0.2}), Planted("capability", {"a": 0, "b": 0}))
    assert (found.recommended, found.best, found.is_confirmed) == ("", None, False)
    assert "No setting reduces harm" in found.warnings[0]


def test_nothing_is_recommended_where_all_that_helps_costs_too_much():
    found = sweep(tolerance=0.0, capability=Planted("capability", dict.fromkeys(HARM, -0.1)))
    assert found.recommended == ""
    assert "3 of 4 settings reduce harm, but of none" in found.warnings[0]


def test_a_recommendation_that_the_items_held_back_do_not_bear_out_is_summary():
    harm = Planted("harm", {"lucky": -0.4})
    measured = harm.metric.score

    def measure(setting, asked):
        is_held_back = asked[0].id.startswith("harm/d")
        return measured(None if is_held_back else setting, asked)

    harm.metric = replace(harm.metric, score=measure)
    found = sweep(harm, Planted("capability", {"lucky": 0.0}))
    assert (found.recommended, found.is_confirmed) == ("lucky", False)
    assert any("do not bear lucky out" in told for told in found.warnings)


def test_items_without_a_verdict_are_left_out_pair_by_pair_and_counted():
    harm = Planted("harm", {"one": -0.4})
    harm.missing = {("none", "harm/c0"), ("one", "harm/c1")}
    found = sweep(harm, Planted("capability", {"one": 0.0}))
    assert found.harm.unjudged == 2
    assert found.best.choosing.harm.value == pytest.approx(-0.4)
    # 2 of 40 scores asked, over 2 % of them.
    assert any("2 scores are missing" in told for told in found.warnings)


def test_missing_scores_are_counted_against_all_that_were_asked_on_both_halves():
    """Three settings and none on 10 items, and all but `useless` on 10 held back: 40 + 30 = 70
    scores, of which 1 is under 2 %. It was said to be more, since it was held against the 40 of
    the choosing half, whichever half it came from."""
    harm = Planted("harm", {name: HARM[name] for name in ("strong", "mild", "useless")})
    harm.missing = {("mild", "harm/d0")}
    found = sweep(harm, Planted("capability", {name: CAPABILITY[name] for name in harm.changes}))
    assert found.harm.unjudged == 1
    assert not any("missing" in told for told in found.warnings)
    harm.missing |= {("mild", "harm/d1")}
    found = sweep(harm, Planted("capability", {name: CAPABILITY[name] for name in harm.changes}))
    assert any("2 scores are missing" in told for told in found.warnings)


def test_halves_with_few_levels_of_a_factor_are_summary():
    """Of 10 items by 3 personas an interval says little of a fourth; by 8 nothing is said."""
    for levels, is_told in ((3, True), (8, False)):
        harm = Planted("harm", HARM)
        halves = harm.metric.halves
        by_persona = [
            tuple(replace(i, factors={"persona": f"p{n % levels}"}) for n, i in enumerate(half))
            for half in (halves.choosing, halves.deciding)
        ]
        harm.metric = replace(harm.metric, halves=Halves(*by_persona))
        said = f"harm: a half has only {levels} different personas"
        assert any(said in told for told in sweep(harm).warnings) == is_told


def test_where_no_item_has_a_verdict_that_is_summary():
    harm = Planted("harm", {"one": -0.4})
    harm.missing = {("one", item.id) for item in harm.metric.halves.choosing}
    with pytest.raises(TooFewSamplesError, match="harm: no item was scored both with one"):
        sweep(harm, Planted("capability", {"one": 0.0}))


def test_factors_that_both_halves_share_are_summary():
    harm = Planted("harm", HARM)
    halves = replace(harm.metric.halves, shared=("persona",))
    harm.metric = replace(harm.metric, halves=halves)
    assert any("both halves share persona" in told for told in sweep(harm).warnings)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(UsageError, match="tolerance is -1"):
        sweep(tolerance=-1)


def test_progress_counts_settings_on_each_half():
    told = []
    sweep(on_progress=lambda *step: told.append(step))
    assert told[0] == ("measuring settings, choosing items", 1, 4)
    assert told[-1] == ("measuring settings, deciding items", 3, 3)


def test_the_frontier_of_points_worked_out_by_hand():
    # (0, 0) is beaten by (-1, 0); (-2, -1) and (-1, 0) trade; (-2, -2) is beaten by (-2, -1).
    assert pareto([(0, 0), (-1, 0), (-2, -1), (-2, -2)]) == [False, True, True, False]


def test_points_that_are_the_same_stay_together():
    assert pareto([(1.0, 1.0), (1.0, 1.0)]) == [True, True]


def test_the_frontier_of_the_frontier_is_all_of_it():
    draw = np.random.default_rng(0)
    points = [tuple(map(float, point)) for point in draw.normal(size=(40, 2))]
    on_it = [point for point, is_on in zip(points, pareto(points), strict=True) if is_on]
    assert all(pareto(on_it))
    # Sorted from least harm upwards, capability must rise too: that is what a frontier is.
    assert [gain for _, gain in sorted(on_it)] == sorted(gain for _, gain in on_it)


def noise_sweep(draw: np.random.Generator, settings: int = 20, count: int = 30):
    """A sweep over settings that change nothing: every answer is a coin's throw in every arm."""

    def measure(_setting, asked):
        return {item.id: float(draw.random() < 0.5) for item in asked}

    harm = Metric("harm", "share", Halves(items(count, "c"), items(count, "d")), measure)
    capability = Planted("capability", {f"s{n}": 0.0 for n in range(settings)}, count=2)
    return sweep_settings(
        [floors(f"s{n}") for n in range(settings)],
        (),
        harm=harm,
        capability=capability.metric,
        compare=compare,
        tolerance=0.02,
    )


def test_the_winner_among_settings_that_do_nothing_is_not_said_to_do_something():
    """The winner's curse: chosen and told on the same items, the best of 20 looks helpful.

    False alarms: the mean of 200 deciding effects, each of standard deviation
    √(2 · 0.25 / 30) = 0.129, lies beyond 4 standard errors (0.037) in 6 of 100,000 runs; and of
    the 95 % intervals, more than 1 in 9 miss 0 in 1 of 100 runs.
    """
    draw = np.random.default_rng(1)
    best = [found.best for found in (noise_sweep(draw) for _ in range(200)) if found.best]
    assert len(best) > 150  # of twenty coins one falls below the unsteered one nearly always
    told = np.array([one.deciding.harm.value for one in best])
    naive = np.array([one.choosing.harm.value for one in best])
    assert abs(told.mean()) < 0.037
    assert naive.mean() < -0.1
    missed = [not one.deciding.harm.low <= 0 <= one.deciding.harm.high for one in best]
    assert np.mean(missed) < 1 / 9
