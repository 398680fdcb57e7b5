"""Alarms fitted to few planted conversations keep their rate on average."""

import pytest

from benchmarks.alarm.few import of_statistic, rate_of_fits


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
