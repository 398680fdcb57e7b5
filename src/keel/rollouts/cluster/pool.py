"""Runs calls on a pool of Ray actors, each with an engine. Knows neither prompts nor folders.

Ray restarts an actor that was lost with its process or its machine, on any machine with room.
Ray does not retry the call that was lost with it, which would wait for that room: the pool gives
the call to the next free actor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from keel.errors import ClusterError, KeelError, ModelMismatchError
from keel.rollouts.answer import RolloutBatch
from keel.rollouts.cluster.actor import AnswerTask, EngineActor, EngineFacts, EngineSpec
from keel.rollouts.cluster.allocation import EngineAllocation

OnEngines = Callable[[int, int], None]
"""Called with the number of open engines, and of all engines."""

_RESTARTS = 20
"""Restarts of one actor before Ray gives it up: a model that kills its process must not do so for
ever."""
_LOSSES = 5
"""Times that one call may be lost with its actor: the call may be what kills them."""
_CLOSING_S = 10.0


@dataclass(frozen=True, eq=False)
class EngineCall:
    """A method call that any engine of the pool can execute."""

    name: str
    method: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _RunningCall:
    """A call with the actor that executes it."""

    actor: Any
    call: EngineCall
    held: tuple[EngineCall, ...] = ()
    """What else is lost with that actor: batches that it was given before."""


class ActorPool:
    """The actors of one cluster, each busy, free, or opening its engine."""

    def __init__(
        self,
        ray: Any,
        spec: EngineSpec,
        allocation: EngineAllocation,
        on_engines: OnEngines = lambda opened, actors: None,
    ) -> None:
        self.lost: list[EngineCall] = []
        """Calls that were lost with their actor and run again, once for each time."""
        self._ray, self._on_engines = ray, on_engines
        self._facts: EngineFacts | None = None
        actor_class = ray.remote(EngineActor).options(
            num_cpus=allocation.cpus, num_gpus=allocation.gpus, max_restarts=_RESTARTS
        )
        self._actors = [actor_class.remote(spec) for _ in range(allocation.actors)]
        self._wanted = allocation.actors
        self._free: list[Any] = []
        self._running: dict[Any, _RunningCall] = {}
        for actor in self._actors:
            self._open(actor)
        self._report()

    def run(self, calls: Iterable[EngineCall]) -> Iterator[tuple[EngineCall, Any]]:
        """Each call with its result, as they finish, in any order.

        A KeelError on another machine is raised here. Raises ClusterError when no actor is left,
        or when a call was lost too often; ModelMismatchError when machines differ.
        """
        waiting = deque(calls)
        unfinished = set(waiting)
        while unfinished:
            self._start_calls(waiting)
            ended, result = self._next()
            if isinstance(result, _ActorLoss):
                if ended.call in unfinished:
                    waiting.appendleft(ended.call)
                continue
            self._start_calls(waiting)  # before the caller takes its time over the result
            if ended.call in unfinished:
                unfinished.remove(ended.call)
                yield ended.call, result

    def roll(self, batches: Sequence[EngineCall], task: AnswerTask) -> Iterator[RolloutBatch]:
        """Answer batches, each of which is a call's only argument; each as it is complete.

        An engine that batches continuously gets its next batch before it has ended its last, so
        that none of its rows is empty while others wait. Raises as `run`.
        """
        shares = _Shares(deque(batches))
        numbers = {call.arguments[0].number: call for call in batches}
        while numbers:
            self._go_on(shares, task)
            ended, result = self._next()
            if isinstance(result, _ActorLoss):
                shares.take_back(ended.actor)
            elif ended.call.arguments == (task,):
                done = [numbers.pop(answered.number) for answered in result.answered]
                shares.note(ended.actor, done, has_room=result.has_room)
                if not result.left:
                    shares.take_back(ended.actor)
                self._go_on(shares, task)  # before the caller takes its time over the result
                yield from result.answered

    def _go_on(self, shares: _Shares, task: AnswerTask) -> None:
        """Let every free actor that has or gets a batch work."""
        for actor in self._free[:]:
            given = shares.give(actor)
            held = shares.held.get(actor)
            if held:
                self._free.remove(actor)
                batches = [call.arguments[0] for call in given]
                reference = actor.work.remote(task, batches, more_wait=bool(shares.waiting))
                call = EngineCall("work", "work", (task,))
                self._running[reference] = _RunningCall(actor, call, tuple(held))

    def close(self) -> None:
        """Stop every actor; idle ones may first close their engines."""
        closing = [actor.close.remote() for actor in self._free]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=_CLOSING_S)
        for actor in self._actors:
            self._ray.kill(actor)

    def _start_calls(self, waiting: deque[EngineCall]) -> None:
        while waiting and self._free:
            actor, call = self._free.pop(), waiting.popleft()
            reference = getattr(actor, call.method).remote(*call.arguments)
            self._running[reference] = _RunningCall(actor, call)

    def _open(self, actor: Any) -> None:
        """Let the actor open its engine, however long Ray takes to find a machine for it."""
        reference = actor.open.options(max_task_retries=-1).remote()
        self._running[reference] = _RunningCall(actor, _OPENING)

    def _next(self) -> tuple[_RunningCall, Any]:
        """The next call that ends, and its result; its actor is then free, or opening again."""
        (reference, *_), _ = self._ray.wait(list(self._running), num_returns=1)
        ended = self._running.pop(reference)
        result = self._result_of(reference)
        if isinstance(result, _ActorLoss):
            self._on_actor_lost(ended, result)
        else:
            self._free.append(ended.actor)
            if ended.call.method == "open":
                self._on_actor_ready(result)
        return ended, result

    def _result_of(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise _original_error(error) from error
        except self._ray.exceptions.RayError as error:  # process, machine or result is gone
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            return _ActorLoss(reason, isinstance(error, self._ray.exceptions.ActorDiedError))

    def _on_actor_lost(self, ended: _RunningCall, loss: _ActorLoss) -> None:
        if ended.call is _OPENING and loss.is_final:
            self._actors.remove(ended.actor)
            if not self._actors:
                raise ClusterError(
                    f"no engine of the cluster is left: {loss.reason}; look at the machines "
                    "(`ray status`), and run the same command again: finished batches are kept"
                )
        else:
            self._open(ended.actor)
        for call in ended.held or ([] if ended.call is _OPENING else [ended.call]):
            self.lost.append(call)
            if self.lost.count(call) >= _LOSSES:
                raise ClusterError(
                    f"{call.name} was lost {_LOSSES} times with the engine that worked on "
                    f"it, last: {loss.reason}; if it does not fit in a machine's memory, start "
                    "over with fewer engines on each or a smaller --max-new-tokens, else run the "
                    "same command again"
                )
        self._report()

    def _on_actor_ready(self, facts: EngineFacts) -> None:
        """Refuse an engine that differs from the first: its answers could differ, too."""
        first = self._facts = self._facts or facts
        mine, theirs = _flat(first), _flat(facts)
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise ModelMismatchError(
                    f"{facts.host} has {name} {theirs.get(name) or 'none'}, but {first.host} has "
                    f"{mine.get(name) or 'none'}; give every machine the same model, versions "
                    "and --dtype"
                )
        self._report()

    def _report(self) -> None:
        opening = sum(running.call is _OPENING for running in self._running.values())
        self._on_engines(len(self._actors) - opening, self._wanted)


@dataclass
class _Shares:
    """Which batches each actor was given and has not answered, and which wait."""

    waiting: deque[EngineCall]
    held: dict[Any, list[EngineCall]] = field(default_factory=dict)
    full: set[Any] = field(default_factory=set)
    """Actors that have no room for more than they hold."""

    def give(self, actor: Any) -> list[EngineCall]:
        """The next batch where an actor has room for it."""
        held = self.held.setdefault(actor, [])
        if not self.waiting or (held and actor in self.full):
            return []
        held.append(self.waiting.popleft())
        return held[-1:]

    def note(self, actor: Any, answered: Sequence[EngineCall], *, has_room: bool) -> None:
        """Note what an actor has answered."""
        for call in answered:
            self.held[actor].remove(call)
        (self.full.discard if has_room else self.full.add)(actor)

    def take_back(self, actor: Any) -> None:
        """Let others have what an actor held: it is lost, or was started anew."""
        self.waiting.extendleft(reversed(self.held.pop(actor, [])))
        self.full.discard(actor)


@dataclass(frozen=True)
class _ActorLoss:
    """Takes the place of a call's result when its actor is gone."""

    reason: str
    is_final: bool
    """Whether Ray has given the actor up."""


_OPENING = EngineCall("opening an engine", "open")


def _original_error(error: Any) -> Exception:
    """The KeelError raised on the other machine; other errors with all that Ray reports."""
    cause = error.cause
    if isinstance(cause, KeelError):
        return cause
    if "failed to import" in str(cause):
        return ClusterError(
            "a machine of the cluster cannot load Keel; install the same version, with the extras "
            "that the engine needs, on every machine"
        )
    other: Exception = error
    return other


def _flat(facts: EngineFacts) -> dict[str, str]:
    template = {f"chat template, {name}": value for name, value in facts.template.items()}
    identity = {name: str(value) for name, value in asdict(facts.identity).items()}
    return {**identity, **template, **facts.versions}
