"""How many engines a cluster's machines have room for, and what each one gets. Knows no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keel.errors import UsageError


@dataclass(frozen=True)
class Machine:
    """CPU cores and GPUs of one machine."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True)
class EngineAllocation:
    """Number of engines and their CPUs and GPUs, equal for all."""

    actors: int
    cpus: int
    gpus: int


def allocate_engines(
    machines: Sequence[Machine], *, actors: int | None, gpus: int | None
) -> EngineAllocation:
    """Number of engines and their CPUs and GPUs, equal for all.

    `gpus` are those of one engine: by default 1 if any machine has one. `actors` is by default the
    number that fits: one per `gpus` GPUs, else one per machine. A larger number is allowed; the
    rest then waits for machines to join. Raises UsageError when no machine has room for one engine.

    >>> allocate_engines([Machine(8), Machine(4)], actors=None, gpus=None)
    EngineAllocation(actors=2, cpus=4, gpus=0)
    >>> allocate_engines([Machine(8, gpus=4)] * 2, actors=None, gpus=2)
    EngineAllocation(actors=4, cpus=1, gpus=2)
    """
    largest = max((machine.gpus for machine in machines), default=0)
    if gpus is None:
        gpus = min(1, largest)
    fitting = _engines_that_fit(machines, 1, gpus)
    if not fitting:
        if not any(machine.cpus for machine in machines):
            raise UsageError(
                "no machine of the cluster has a CPU to give; add machines with: "
                "ray start --address"
            )
        raise UsageError(
            f"an engine on {gpus} GPUs was asked for, but the largest machine of the cluster has "
            f"{largest}; ask for {largest} or fewer, or add larger machines"
        )
    if gpus:
        return EngineAllocation(actors or fitting, 1, gpus)
    cpus = sorted(machine.cpus for machine in machines if machine.cpus)
    if actors is None:
        return EngineAllocation(len(cpus), cpus[0], 0)
    sizes = (n for n in range(cpus[-1], 1, -1) if _engines_that_fit(machines, n, 0) >= actors)
    return EngineAllocation(actors, next(sizes, 1), 0)


def _engines_that_fit(machines: Sequence[Machine], cpus: int, gpus: int) -> int:
    return sum(
        min(machine.cpus // cpus, machine.gpus // gpus if gpus else machine.cpus)
        for machine in machines
    )
