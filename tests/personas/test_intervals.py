"""An interval is the middle of the resamples, and holds its value."""

import numpy as np
import pytest

from keel.errors import TooFewSamplesError
from keel.personas.intervals import interval


def test_the_interval_is_the_middle_of_the_resamples():
    # 0 to 1000: 2.5 % lie below 25, 2.5 % above 975.
    found = interval(np.concatenate([[400.0], np.arange(1001.0)]))
    assert (found.value, found.low, found.high) == (400, 25, 975)


@pytest.mark.parametrize(("value", "ends"), [(-1.0, (-1.0, 1.0)), (9.0, (1.0, 9.0))])
def test_the_interval_holds_its_value_where_resampling_pulls_one_way(value, ends):
    found = interval(np.array([value, 1.0, 1.0]))
    assert (found.low, found.high) == ends


def test_resamples_with_nothing_to_compare_are_left_out():
    found = interval(np.array([1.0, np.nan, 1.0, np.nan]))
    assert (found.low, found.high) == (1, 1)
    with pytest.raises(TooFewSamplesError, match="none of 2 resamples"):
        interval(np.array([1.0, np.nan, np.nan]))
