"""How many engines a cluster has room for. Knows machines as numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keel.errors import UsageError


@dataclass(frozen=True)
class Machine:
    """What one machine has."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True)
class Share:
    """How many engines there are to be, and what each of them gets."""

    actors: int
    cpus: int
    gpus: int


def share_out(machines: Sequence[Machine], *, actors: int | None, gpus: int | None) -> Share:
    """Every engine gets as much as any other.

    `gpus` are those of one engine: by default 1 where there are any. `actors` is by default as
    many as there is room for: one for each share of the GPUs, else one for each machine. More
    than there is room for may be asked for; the rest then waits for machines to come.
    Raises UsageError when no machine has room for one engine.

    >>> share_out([Machine(8), Machine(4)], actors=None, gpus=None)
    Share(actors=2, cpus=4, gpus=0)
    >>> share_out([Machine(8, gpus=4)] * 2, actors=None, gpus=2)
    Share(actors=4, cpus=1, gpus=2)
    """
    if gpus is None:
        gpus = min(1, max((machine.gpus for machine in machines), default=0))
    room = _room(machines, 1, gpus)
    if not room:
        raise UsageError(_too_small(machines, gpus))
    if gpus:
        return Share(actors or room, 1, gpus)
    cpus = sorted(machine.cpus for machine in machines if machine.cpus)
    if actors is None:
        return Share(len(cpus), cpus[0], 0)
    fitting = (n for n in range(cpus[-1], 1, -1) if _room(machines, n, 0) >= actors)
    return Share(actors, next(fitting, 1), 0)


def _room(machines: Sequence[Machine], cpus: int, gpus: int) -> int:
    """Engines of this size that fit."""
    return sum(
        min(machine.cpus // cpus, machine.gpus // gpus if gpus else machine.cpus)
        for machine in machines
    )


def _too_small(machines: Sequence[Machine], gpus: int) -> str:
    most = max((machine.gpus for machine in machines), default=0)
    if not any(machine.cpus for machine in machines):
        return "no machine of the cluster has a CPU to give; add machines with: ray start --address"
    return (
        f"an engine on {gpus} GPUs was asked for, but the largest machine of the cluster has "
        f"{most}; ask for {most} or fewer, or add larger machines"
    )
