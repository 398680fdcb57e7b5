"""Which floors hold a running server now. They change under requests, which keep their own.

The settings of a change are registered in the workers beside those of before, under names that
carry the change's number. An HTTP request is given its floors once, when it arrives: whatever it
computes names them by that number. So a change is a change of which number new requests get.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from keel.engines.vllm.deployment import CHANGE_MARK, OFF, Deployment, ServeEnvironment
from keel.engines.vllm.gate import FloorsChange, Gate
from keel.engines.vllm.serving import default_of


@dataclass(frozen=True)
class LiveFloors:
    """A server's floors, and how many changes there were before; 0: those of its start."""

    environment: ServeEnvironment
    """The server's own, with these floors."""
    change: int = 0

    @classmethod
    def of(
        cls, environment: ServeEnvironment | None, gate: Gate | None, *, is_candidate: bool = False
    ) -> LiveFloors | None:
        """What holds the server now, or what is being probed to do so; None without floors."""
        if environment is None:
            return None
        current = None if gate is None else (gate.candidate if is_candidate else None) or gate.live
        return cls(environment) if current is None else cls(environment).after(current)

    def after(self, change: FloorsChange) -> LiveFloors:
        """The same server's floors after a change."""
        held = replace(self.environment, floors=change.floors, setting=change.setting)
        return LiveFloors(held, change.number)

    @property
    def default(self) -> str:
        """The setting of requests that name none."""
        return default_of(self.environment)

    def under(self, deployment: Deployment) -> Deployment:
        """The engine's deployment, with the default of these floors."""
        return replace(deployment, default=self.default)

    def registered(self, name: str) -> str:
        """The name under which workers hold a setting of these floors."""
        return registered_name(name, self.change)


def registered_name(name: str, change: int) -> str:
    """The name under which workers hold a setting that the `change`th change brought."""
    return name if change == 0 or name == OFF else f"{name}{CHANGE_MARK}{change}"


def named_change(registered: str) -> tuple[str, int]:
    """The setting's own name, and the number of the change that brought it."""
    name, _, number = registered.partition(CHANGE_MARK)
    return name, int(number or 0)
