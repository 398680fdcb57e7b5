"""Cheap measures are those worked out by hand, and prune what is not worth its price.

On a planted stream without noise a default token projects to layer + 1 and a ghost's to 0; the
planted KL is half the squared shift at the last layer; what one layer is moved by, later layers
keep. One gap at the last of four layers is 4.
"""

import pytest
import torch

from keel.calibrate import (
    Band,
    GridPoint,
    ScreenLimits,
    is_inert_by_nominal,
    prune_settings,
    screen_settings,
)
from keel.errors import TooFewSamplesError, UsageError
from keel.statistics import Clusters
from keel.testing import FakeEngine
from keel.types import Conversation, Floor, Floors, Message, Prompt, Rollout, ScreenReading


def rollouts(role: str, count: int, system: str | None = None) -> list[Rollout]:
    head = [Message("system", system)] if system else []
    asked = [Conversation((*head, Message("user", f"say {n}"))) for n in range(count)]
    prompts = [Prompt(f"{role}/p0/q{n}", talk, role) for n, talk in enumerate(asked)]
    return [Rollout(p, "one two", (n, n + 1), "stop") for n, p in enumerate(prompts)]


DEFAULT = rollouts("default", 3)
GHOSTS = rollouts("ghost", 3, "you are a ghost")


def floors(engine: FakeEngine, layer: int, value: float, name: str = "one") -> Floors:
    return Floors((Floor(layer, engine.axis.direction[layer], value),), name)


def test_price_effect_and_firing_are_those_worked_out_by_hand():
    engine = FakeEngine(noise=0.0)
    tried = [floors(engine, 1, 3.0, "high"), floors(engine, 1, 1.0, "low")]
    high, low = screen_settings(engine, engine.axis, tried, default=DEFAULT, roles=GHOSTS)
    # At layer 1 the default rises from 2 to 3 and a ghost from 0 to 3; all tokens are moved.
    assert (high.name, high.realised_firing) == ("high", 1.0)
    assert high.kls == pytest.approx((0.5, 0.5, 0.5), abs=1e-4)
    assert high.rises == pytest.approx((3 / 4,) * 3, abs=1e-4)
    # A floor at 1 leaves the default alone and lifts ghosts by 1: half of the tokens.
    assert low.realised_firing == pytest.approx(0.5)
    assert low.kls == pytest.approx((0.0,) * 3, abs=1e-4)
    assert low.rises == pytest.approx((1 / 4,) * 3, abs=1e-4)


def test_firing_is_the_mean_over_a_settings_layers():
    """The floor at layer 1 moves every token, the one at layer 2 none: half of the slots."""
    engine = FakeEngine(noise=0.0)
    both = (*floors(engine, 1, 3.0), *floors(engine, 2, -100.0))
    tried = [Floors(both, "two")]
    (found,) = screen_settings(engine, engine.axis, tried, default=DEFAULT, roles=GHOSTS)
    assert found.realised_firing == 0.5


def test_many_settings_come_one_by_one_in_their_order():
    engine = FakeEngine(noise=0.0)
    tried = [floors(engine, 1, n / 10, f"n{n}") for n in range(20)]
    found = screen_settings(engine, engine.axis, tried, default=DEFAULT, roles=GHOSTS)
    assert next(found).name == "n0"
    assert [one.name for one in found] == [f"n{n}" for n in range(1, 20)]


def test_the_unsteered_model_is_read_once_for_all():
    engine, read = FakeEngine(noise=0.0), []
    honest = engine.read
    engine.read = lambda c, **k: read.append(k.get("interventions")) or honest(c, **k)
    tried = [floors(engine, 1, n / 10, f"n{n}") for n in range(3)]
    list(screen_settings(engine, engine.axis, tried, default=DEFAULT, roles=GHOSTS))
    assert read.count(()) == 1
    assert len(read) == 4


def test_too_few_answers_cannot_be_told_from_noise():
    engine = FakeEngine()
    with pytest.raises(TooFewSamplesError, match="2 default and 3 role answers"):
        next(screen_settings(engine, engine.axis, [], default=DEFAULT[:2], roles=GHOSTS))


def setting(name: str, start: int = 0, nominal: float = 0.5) -> GridPoint:
    one = Floors((Floor(start, torch.tensor([1.0, 0.0]), 0.0),), name)
    return GridPoint(one, Band(start, start + 2), nominal)


def proxies(name: str, price: float, effect: float, *, noise: float = 0.0, firing: float = 0.4):
    """Four answers, two above and two below the mean by `noise`: standard error noise / √3."""
    waves = (-noise, noise, -noise, noise)
    return ScreenReading(name, firing, (price,) * 4, tuple(effect + wave for wave in waves))


def prune(*measured, limits=None, places=None):
    places = places or {}
    settings = [setting(one.name, places.get(one.name, 0)) for one in measured]
    found = prune_settings(
        settings,
        {one.name: one for one in measured},
        layers=32,
        limits=limits or ScreenLimits(),
    )
    return {one.name: one for one in found}


def test_a_setting_that_hardly_fires_is_inert():
    found = prune(proxies("still", 0.01, 0.5, firing=0.04), proxies("alive", 0.01, 0.5))
    assert (found["still"].fate, found["alive"].fate) == ("inert", "kept")
    assert found["still"].why == "moves 4.0\xa0% of slots, under 5\xa0%"


def test_an_effect_within_its_noise_is_none():
    # Student's t of three degrees: 0.5 ± 3.18 · 0.3 / √3 holds 0; with 0.25 it is 0.5 ± 0.46.
    found = prune(proxies("noisy", 0.1, 0.5, noise=0.3), proxies("clear", 0.1, 0.5, noise=0.25))
    assert (found["noisy"].fate, found["clear"].fate) == ("inert", "kept")
    assert "+0.50 gaps, at least −0.05" in found["noisy"].why


def test_an_effect_on_answers_to_two_questions_is_as_uncertain_as_two_numbers():
    reading = proxies("noisy", 0.1, 0.5, noise=0.1)
    asked = Clusters.of([{"question": str(n % 2)} for n in range(4)], fewest=2)
    (found,) = prune_settings(
        [setting("noisy")], {"noisy": reading}, layers=32, default=asked, roles=asked
    )
    assert found.fate == "inert"
    assert prune(reading)["noisy"].fate == "kept"


def test_a_price_above_the_bound_is_too_dear_and_one_at_it_is_not():
    found = prune(proxies("dear", 0.21, 2.0), proxies("at it", 0.2, 1.0))
    assert (found["dear"].fate, found["at it"].fate) == ("too dear", "kept")


def test_a_price_that_may_lie_under_the_bound_is_not_yet_too_dear():
    noisy = ScreenReading("unsure", 0.4, (0.05, 0.45, 0.05, 0.45), (1.0,) * 4)  # 0.25 ± 0.23
    assert prune(noisy)["unsure"].fate == "kept"


def test_a_setting_is_dominated_where_another_is_clearly_cheaper_and_stronger():
    found = prune(proxies("better", 0.05, 1.0), proxies("worse", 0.06, 0.8))
    assert found["worse"].fate == "dominated"
    assert found["worse"].why == "better is clearly cheaper and stronger"
    assert found["better"].fate == "kept"


def test_a_little_better_is_not_enough_to_dominate():
    # Cheaper by 25 %, but stronger by 5 % only: the margin is 10 % in both.
    found = prune(proxies("better", 0.06, 0.84), proxies("worse", 0.08, 0.8))
    assert {one.fate for one in found.values()} == {"kept"}


def test_a_little_cheaper_is_not_enough_either():
    # Stronger by 25 %, but cheaper by 5 % only.
    found = prune(proxies("better", 0.076, 1.0), proxies("worse", 0.08, 0.8))
    assert {one.fate for one in found.values()} == {"kept"}


def test_differences_are_taken_answer_by_answer():
    """Answers differ by far more than settings do, but the same answer under both does not."""
    better = ScreenReading("better", 0.4, (0.02, 0.04, 0.06, 0.08), (0.6, 0.8, 1.0, 1.2))
    worse = ScreenReading("worse", 0.4, (0.03, 0.05, 0.07, 0.09), (0.4, 0.6, 0.8, 1.0))
    assert prune(better, worse)["worse"].fate == "dominated"


def test_windows_far_apart_are_not_compared():
    """Near the last layer, where the effect is read, every band looks strong."""
    better, worse = proxies("late", 0.05, 1.0), proxies("early", 0.06, 0.8)
    # Reach is an eighth of 32 layers: 4.
    near = prune(better, worse, places={"late": 24, "early": 20})
    far = prune(better, worse, places={"late": 24, "early": 19})
    assert (near["early"].fate, far["early"].fate) == ("dominated", "kept")


def test_what_dominates_is_itself_kept():
    """Of a chain of ever worse neighbours, only those are pruned that a kept one beats."""
    chain = [proxies("a", 0.04, 1.2), proxies("b", 0.05, 1.0), proxies("c", 0.06, 0.8)]
    found = prune(*chain, places={"a": 20, "b": 17, "c": 14})
    # a beats b; c lies 6 from a, past the reach of 4, and b that beat it is gone.
    assert [found[name].fate for name in "abc"] == ["kept", "dominated", "kept"]


def test_those_in_excess_are_left_out_evenly_over_depth():
    many = [proxies(f"n{at}", 0.05, 1.0 + at / 1000) for at in range(0, 32, 2)]
    places = {f"n{at}": at for at in range(0, 32, 2)}
    found = prune(*many, limits=ScreenLimits(max_settings=3, neighbour_depth=0), places=places)
    kept = [name for name, one in found.items() if one.fate == "kept"]
    # All cost the same: the strongest is the last, farthest from it the first, then the middle.
    assert kept in (["n0", "n14", "n30"], ["n0", "n16", "n30"])
    assert sum(one.fate == "crowded out" for one in found.values()) == 13


def test_what_nominal_firing_rules_out_is_not_tried():
    limits = ScreenLimits()
    assert is_inert_by_nominal(setting("low", nominal=0.049), limits)
    assert not is_inert_by_nominal(setting("enough", nominal=0.05), limits)
    (found,) = prune_settings([setting("low", nominal=0.02)], {}, layers=32)
    assert (found.fate, found.price, found.realised_firing) == ("inert", None, None)
    assert found.why == "2.0\xa0% of tokens lie under its floors; it was not tried"


def test_every_setting_has_its_fate_in_the_order_of_the_grid():
    given = [setting(name) for name in ("b", "a", "c")]
    found = prune_settings(given, {n: proxies(n, 0.1, 0.5) for n in "abc"}, layers=32)
    assert [one.name for one in found] == ["b", "a", "c"]
    assert (found[0].start, found[0].stop) == (0, 2)


@pytest.mark.parametrize("bad", [{"max_settings": 0}, {"max_price": 0.0}])
def test_limits_that_make_no_sense_are_refused(bad):
    with pytest.raises(UsageError):
        ScreenLimits(**bad)
