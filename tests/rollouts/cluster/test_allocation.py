"""Every engine gets as much as any other, and no more is promised than there is."""

from __future__ import annotations

import pytest

from keel.errors import UsageError
from keel.rollouts.cluster.allocation import EngineAllocation, Machine, allocate_engines


@pytest.mark.parametrize(
    ("machines", "actors", "gpus", "expected"),
    [
        # One engine a machine, each with what the smallest has.
        ([Machine(8), Machine(6)], None, None, EngineAllocation(2, 6, 0)),
        # A head that gives no CPU is none of them.
        ([Machine(0), Machine(4), Machine(4)], None, None, EngineAllocation(2, 4, 0)),
        # 3 on 8 + 6 cores: 8 // 4 + 6 // 4 = 3; with 5 cores each it would be 1 + 1.
        ([Machine(8), Machine(6)], 3, None, EngineAllocation(3, 4, 0)),
        # More than there are cores: one each, and the rest waits.
        ([Machine(2)], 5, None, EngineAllocation(5, 1, 0)),
        # One GPU each by default: 4 + 2.
        ([Machine(16, 4), Machine(16, 2), Machine(16)], None, None, EngineAllocation(6, 1, 1)),
        # Two GPUs of one machine: 4 // 2 + 3 // 2.
        ([Machine(16, 4), Machine(16, 3)], None, 2, EngineAllocation(3, 1, 2)),
        # As few as asked for.
        ([Machine(16, 4), Machine(16, 4)], 3, 2, EngineAllocation(3, 1, 2)),
        # GPUs left alone.
        ([Machine(16, 4)], None, 0, EngineAllocation(1, 16, 0)),
        # Fewer cores than GPUs: an engine needs one.
        ([Machine(2, 8)], None, 1, EngineAllocation(2, 1, 1)),
    ],
)
def test_engines_are_shared_out_by_hand(machines, actors, gpus, expected):
    assert allocate_engines(machines, actors=actors, gpus=gpus) == expected


@pytest.mark.parametrize(
    ("machines", "gpus", "said"),
    [
        ([Machine(16, 2), Machine(16, 4)], 8, "8 GPUs was asked for, .* has 4; ask for 4 or fewer"),
        ([Machine(0)], None, "no machine of the cluster has a CPU to give"),
        ([], None, "no machine of the cluster has a CPU to give"),
    ],
)
def test_an_engine_that_fits_nowhere_is_refused(machines, gpus, said):
    with pytest.raises(UsageError, match=said):
        allocate_engines(machines, actors=None, gpus=gpus)
