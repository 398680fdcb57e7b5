"""Alarms fitted to few planted conversations keep their rate on average."""

import pytest

from benchmarks.alarm.few import of_statistic, rate_of_fits
from benchmarks.alarm.worlds import WORLDS, rate_in


@pytest.mark.parametrize("statistic", ["mixture", "glr", "turn"])
@pytest.mark.parametrize("rate", [0.05, 0.01])
@pytest.mark.parametrize("conversations", [10, 20, 50])
def test_fitted_to_few_conversations_an_alarm_is_wrong_at_most_at_its_rate(
    statistic, rate, conversations
):
    """60 fits, each tried on 1,000 fresh conversations. At a mean at the rate, 1 in 200 seeds
    would fail by chance."""
    found = rate_of_fits(of_statistic(statistic, rate), conversations, 60, seed=1)
    assert found.wrong <= rate + 2.6 * found.error


@pytest.mark.parametrize("name", ["ICC .1", "ICC .8", "noisy tokens", "12 turns", "steep fall"])
def test_so_it_is_in_worlds_that_its_allowance_was_not_tuned_in(name):
    """30 fits to 10 conversations, the mixture at 5 %: with fewer turns or heavy tails it stands
    near 5 %, which so few fits cannot tell."""
    world = WORLDS[name]
    seen = rate_in(world, world.truth("mixture", 0.05), 10, 30, seed=2)
    assert seen.wrong <= 0.05 + 2.6 * seen.error
