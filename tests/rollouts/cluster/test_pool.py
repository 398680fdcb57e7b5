"""What was lost is asked again, and what cannot be mended ends in one line. Ray is played here;
the real one is in tests/pipeline/test_cluster.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from keel.errors import ClusterError, ModelLoadError, ModelMismatchError
from keel.rollouts.cluster.actor import EngineFacts, EngineSpec
from keel.rollouts.cluster.cluster import EngineAllocation
from keel.rollouts.cluster.pool import ActorPool, EngineCall
from keel.types import ModelIdentity

SPEC = EngineSpec("tiny", "transformers", {}, 1)
FACTS = EngineFacts(ModelIdentity("tiny", 4, 32, dtype="float32"), 4, {}, {"torch": "2"}, "first")


class RayError(Exception):
    """Something of Ray's is gone."""


class ActorDiedError(RayError):
    """Ray has given an actor up."""


class RayTaskError(RayError):
    """The actor raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a traceback of many lines\n...")
        self.cause = cause


@dataclass(eq=False)
class Asked:
    """A question on its way to an actor."""

    actor: int
    method: str
    arguments: tuple[Any, ...]


class PlayedRay:
    """Answers in the order asked; `answers` says what, by (actor, method, arguments)."""

    def __init__(self, answers: Any) -> None:
        self.exceptions = SimpleNamespace(
            RayError=RayError, ActorDiedError=ActorDiedError, RayTaskError=RayTaskError
        )
        self.answers, self.killed, self.asked = answers, [], []
        self._actors = 0
        self._queue: deque[Asked] = deque()

    def remote(self, _kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def wait(self, references: list[Asked], num_returns: int, timeout: float | None = None) -> Any:
        first = next(one for one in self._queue if one in references)
        self._queue.remove(first)
        return [first], [one for one in references if one is not first]

    def get(self, asked: Asked) -> Any:
        found = self.answers(asked.actor, asked.method, *asked.arguments)
        if isinstance(found, Exception):
            raise found
        return found

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.number)

    def _actor(self, _spec: EngineSpec) -> Any:
        number, self._actors = self._actors, self._actors + 1
        methods = {name: self._method(number, name) for name in ("open", "answer", "close")}
        return SimpleNamespace(number=number, **methods)

    def _method(self, actor: int, name: str) -> Any:
        def ask(*arguments: Any, **named: Any) -> Asked:
            asked = Asked(actor, name, arguments)
            self._queue.append(asked)
            self.asked.append((actor, name, *arguments))
            return asked

        return SimpleNamespace(remote=ask, options=lambda **_: SimpleNamespace(remote=ask))


def pool_of(actors: int, answers: Any, **more: Any) -> ActorPool:
    """A pool whose actors open well, unless `answers` says otherwise."""
    return ActorPool(
        PlayedRay(lambda *asked: answers(*asked) or (FACTS if asked[1] == "open" else asked)),
        SPEC,
        EngineAllocation(actors, 1, 0),
        **more,
    )


def batches(count: int) -> list[EngineCall]:
    return [EngineCall(f"batch {n}", "answer", (n,)) for n in range(count)]


def done(pool: ActorPool, jobs: list[EngineCall]) -> list[tuple[str, int]]:
    """(job, actor that did it), as they finished."""
    return [(job.name, found[0]) for job, found in pool.run(jobs)]


def test_each_job_is_done_once_by_whoever_is_free():
    pool = pool_of(2, lambda *_: None)
    assert sorted(done(pool, batches(5))) == [
        *(("batch 0", 0), ("batch 1", 1), ("batch 2", 0), ("batch 3", 1), ("batch 4", 0))
    ]
    assert pool.lost == []


def test_what_an_actor_took_with_it_is_done_before_anything_new():
    """Actor 0 is lost with batch 0; actor 1, done with batch 1, goes on with 0, not with 2."""
    lost = deque([RayError("its machine is gone")])
    pool = pool_of(
        2, lambda actor, method, *which: lost.popleft() if lost and which == (0,) else None
    )
    assert done(pool, batches(4))[:2] == [("batch 1", 1), ("batch 0", 1)]
    assert [job.name for job in pool.lost] == ["batch 0"]


def test_an_actor_that_comes_back_is_opened_before_it_is_asked_again():
    lost = deque([RayError("gone")])
    pool = pool_of(1, lambda actor, method, *which: lost.popleft() if lost and which else None)
    assert done(pool, batches(2)) == [("batch 0", 0), ("batch 1", 0)]
    asked = [one[1:] for one in pool._ray.asked]
    assert asked == [("open",), ("answer", 0), ("open",), ("answer", 0), ("answer", 1)]


def test_an_actor_given_up_is_done_without():
    pool = pool_of(2, lambda actor, *_: ActorDiedError("too often") if actor == 0 else None)
    assert {actor for _, actor in done(pool, batches(3))} == {1}


def test_without_any_actor_left_it_ends_and_says_how_to_go_on():
    pool = pool_of(2, lambda *_: ActorDiedError("The actor died.\nmany more lines"))
    with pytest.raises(ClusterError, match=r"no engine .* is left: The actor died; .*run the same"):
        done(pool, batches(3))


def test_a_batch_that_kills_every_actor_ends_the_run():
    pool = pool_of(2, lambda actor, method, *which: RayError("killed") if which == (1,) else None)
    with pytest.raises(ClusterError, match=r"batch 1 was lost 5 times .* last: killed; .*memory"):
        done(pool, batches(3))


def test_an_error_of_ours_comes_over_as_its_own_line():
    """Ray's own text would be a traceback."""
    refused = RayTaskError(ModelLoadError("on node-7: cannot load model 'x'"))
    with pytest.raises(ModelLoadError, match="^on node-7: cannot load model 'x'$"):
        done(pool_of(1, lambda *_: refused), batches(1))


def test_a_bug_on_another_machine_comes_over_with_its_traceback():
    with pytest.raises(RayTaskError, match="a traceback of many lines"):
        done(pool_of(1, lambda *_: RayTaskError(ZeroDivisionError())), batches(1))


def test_a_machine_without_keel_is_named_as_such():
    failed = RuntimeError("The actor with name EngineActor failed to import on the worker.")
    with pytest.raises(ClusterError, match="cannot load Keel; install the same version"):
        done(pool_of(1, lambda *_: RayTaskError(failed)), batches(1))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"identity": replace(FACTS.identity, dtype="bfloat16")}, "dtype bfloat16, .* float32"),
        ({"identity": replace(FACTS.identity, weights_hash="ab")}, "weights_hash ab, .* none"),
        ({"versions": {"torch": "3"}}, "torch 3, but first has 2"),
        ({"template": {"kind": "chat"}}, "chat template, kind chat, .* none"),
    ],
)
def test_a_machine_that_would_answer_otherwise_is_refused(other, said):
    facts = replace(FACTS, host="second", **other)
    pool = pool_of(2, lambda actor, method, *_: facts if (actor, method) == (1, "open") else None)
    with pytest.raises(ModelMismatchError, match=f"second has {said}"):
        done(pool, batches(8))


def test_it_tells_how_many_engines_are_open():
    """Two open; the first is lost with its batch, and comes back."""
    told: list[tuple[int, int]] = []
    lost = deque([RayError("gone")])
    pool = pool_of(
        2,
        lambda actor, method, *which: lost.popleft() if lost and which == (0,) else None,
        on_engines=lambda *now: told.append(now),
    )
    done(pool, batches(6))
    assert told == [(0, 2), (1, 2), (2, 2), (1, 2), (2, 2)]


def test_jobs_that_nobody_waits_for_any_more_are_not_taken_for_others():
    """The first caller leaves while batch 1 is at work; the second gets its own answers only."""
    pool = pool_of(2, lambda *_: None)
    for _ in pool.run(batches(2)):
        break
    assert sorted(name for name, _ in done(pool, batches(3))) == ["batch 0", "batch 1", "batch 2"]


def test_closing_stops_every_actor():
    pool = pool_of(3, lambda *_: None)
    done(pool, batches(1))
    pool.close()
    assert sorted(pool._ray.killed) == [0, 1, 2]
