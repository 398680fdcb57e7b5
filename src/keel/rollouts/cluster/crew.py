"""Engine actors on Ray, asked side by side. Knows neither prompts nor folders.

Ray starts an actor again that was lost with its process or its machine, wherever there is room.
What the actor was asked is not retried by Ray, which would wait for that room: it goes to the next
actor that is free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from keel.errors import ClusterError, KeelError, ModelMismatchError
from keel.rollouts.cluster.actor import EngineActor, EngineFacts, EngineSpec
from keel.rollouts.cluster.share import Share

OnEngines = Callable[[int, int], None]
"""Called with how many engines are open, and of how many."""

_RESTARTS = 20
"""Losses of one actor before it is given up: a model that kills its process must not do so for
ever."""
_LOSSES = 5
"""Times that one job may be lost with its actor: it may be what kills them."""
_CLOSING_S = 10.0


@dataclass(frozen=True, eq=False)
class Job:
    """Something that any engine of the crew can be asked."""

    name: str
    method: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Task:
    """A job in the hands of an actor."""

    actor: Any
    job: Job


class Crew:
    """The actors of one cluster, each busy, free, or opening its engine."""

    def __init__(
        self,
        ray: Any,
        spec: EngineSpec,
        share: Share,
        on_engines: OnEngines = lambda opened, actors: None,
    ) -> None:
        self.lost: list[Job] = []
        """What was lost with its actor and asked again, once for each time."""
        self._ray, self._on_engines = ray, on_engines
        self._facts: EngineFacts | None = None
        made = ray.remote(EngineActor).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=_RESTARTS
        )
        self._actors = [made.remote(spec) for _ in range(share.actors)]
        self._wanted = share.actors
        self._free: list[Any] = []
        self._tasks: dict[Any, _Task] = {}
        for actor in self._actors:
            self._open(actor)
        self._tell()

    def do(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Each job with what was answered, as they finish, in any order.

        A KeelError on another machine is raised here. Raises ClusterError when no actor is left,
        or when a job was lost too often; ModelMismatchError when machines differ.
        """
        waiting = deque(jobs)
        asked = set(waiting)
        while asked:
            self._hand_out(waiting)
            task, found = self._next()
            if isinstance(found, _Lost):
                if task.job in asked:
                    waiting.appendleft(task.job)
                continue
            self._hand_out(waiting)  # before the caller takes its time over what was found
            if task.job in asked:
                asked.remove(task.job)
                yield task.job, found

    def close(self) -> None:
        """Stop every actor; those that are not busy may first stop what they have started."""
        closing = [actor.close.remote() for actor in self._free]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=_CLOSING_S)
        for actor in self._actors:
            self._ray.kill(actor)

    def _hand_out(self, waiting: deque[Job]) -> None:
        while waiting and self._free:
            self._ask(self._free.pop(), waiting.popleft())

    def _ask(self, actor: Any, job: Job) -> None:
        reference = getattr(actor, job.method).remote(*job.arguments)
        self._tasks[reference] = _Task(actor, job)

    def _open(self, actor: Any) -> None:
        """Have the actor open its engine, however long it takes Ray to find it a place."""
        reference = actor.open.options(max_task_retries=-1).remote()
        self._tasks[reference] = _Task(actor, _OPENING)

    def _next(self) -> tuple[_Task, Any]:
        """The next task that has come to an end; its actor is free, or opening again."""
        (reference, *_), _ = self._ray.wait(list(self._tasks), num_returns=1)
        task = self._tasks.pop(reference)
        found = self._fetched(reference)
        if isinstance(found, _Lost):
            self._mourn(task, found)
        else:
            self._free.append(task.actor)
            if task.job.method == "open":
                self._welcome(found)
        return task, found

    def _fetched(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise _as_raised(error) from error
        except self._ray.exceptions.RayError as error:  # process, machine or result is gone
            return _Lost.to(error, self._ray)

    def _mourn(self, task: _Task, lost: _Lost) -> None:
        if task.job is _OPENING and lost.is_final:
            self._actors.remove(task.actor)
            if not self._actors:
                raise ClusterError(
                    f"no engine of the cluster is left: {lost.reason}; look at the machines "
                    "(`ray status`), and run the same command again: finished batches are kept"
                )
        else:
            self._open(task.actor)
        if task.job is not _OPENING:
            self.lost.append(task.job)
            self._check_losses(task.job, lost)
        self._tell()

    def _check_losses(self, job: Job, lost: _Lost) -> None:
        if self.lost.count(job) >= _LOSSES:
            raise ClusterError(
                f"{job.name} was lost {_LOSSES} times with the engine that worked on it, last: "
                f"{lost.reason}; if it does not fit in a machine's memory, start over with fewer "
                "engines on each or a smaller --max-new-tokens, else run the same command again"
            )

    def _welcome(self, facts: EngineFacts) -> None:
        """Take in an engine; one that would answer otherwise than the first is refused."""
        first = self._facts = self._facts or facts
        for name, (mine, theirs) in _differences(first, facts).items():
            raise ModelMismatchError(
                f"{facts.host} has {name} {theirs or 'none'}, but {first.host} has "
                f"{mine or 'none'}; give every machine the same model, versions and --dtype"
            )
        self._tell()

    def _tell(self) -> None:
        opening = sum(task.job is _OPENING for task in self._tasks.values())
        self._on_engines(len(self._actors) - opening, self._wanted)


@dataclass(frozen=True)
class _Lost:
    """What there is in place of an answer when its actor is gone."""

    reason: str
    is_final: bool
    """Whether Ray has given the actor up."""

    @classmethod
    def to(cls, error: Exception, ray: Any) -> _Lost:
        """What is left of an answer that Ray could not bring."""
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        return cls(reason, isinstance(error, ray.exceptions.ActorDiedError))


_OPENING = Job("opening an engine", "open")


def _as_raised(error: Any) -> Exception:
    """What was raised on the other machine: of ours the one line, of others all that Ray tells."""
    cause = error.cause
    if isinstance(cause, KeelError):
        return cause
    if "failed to import" in str(cause):
        return ClusterError(
            "a machine of the cluster cannot load Keel; install the same version, with the extras "
            "that the engine needs, on every machine"
        )
    found: Exception = error
    return found


def _differences(first: EngineFacts, other: EngineFacts) -> dict[str, tuple[str, str]]:
    mine, theirs = _flat(first), _flat(other)
    names = sorted(mine.keys() | theirs.keys())
    return {
        name: (mine.get(name, ""), theirs.get(name, ""))
        for name in names
        if mine.get(name) != theirs.get(name)
    }


def _flat(facts: EngineFacts) -> dict[str, str]:
    template = {f"chat template, {name}": value for name, value in facts.template.items()}
    identity = {name: str(value) for name, value in asdict(facts.identity).items()}
    return {**identity, **template, **facts.versions}
