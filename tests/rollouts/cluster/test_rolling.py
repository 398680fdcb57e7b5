"""Batches roll from one to the next inside each engine of a cluster, and are answered as alone.

Ray is played, in time that counts an engine's steps; the real one is in
tests/pipeline/test_cluster.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from keel.engines import Batch, Completion
from keel.rollouts import answer_prompts
from keel.rollouts.cluster.actor import AnswerTask, EngineActor, EngineFacts, EngineSpec
from keel.rollouts.cluster.cluster import Cluster, EngineAllocation
from keel.rollouts.cluster.pool import ActorPool
from keel.testing import FakeEngine
from keel.types import Activations, Conversation, Message, ModelIdentity, Prompt, Sampling

ROWS, SIZE = 16, 32
SAMPLING = Sampling(max_new_tokens=120)
FACTS = EngineFacts(ModelIdentity("tiny", 2, 4, dtype="float32"), 2, {}, {}, "first")


def prompts_of(batches: int) -> tuple[list[Prompt], list[Batch]]:
    prompts = [
        Prompt(f"p{n}", Conversation((Message("user", f"question {n}"),)))
        for n in range(batches * SIZE)
    ]
    return prompts, [Batch(n, tuple(range(n * SIZE, (n + 1) * SIZE))) for n in range(batches)]


def length_of(prompt: Prompt) -> int:
    """Most answers are short, some four and some twelve times as long."""
    return Random(prompt.id).choice([10] * 6 + [40] * 3 + [120])


class SteppingEngine(FakeEngine):
    """Answers as many prompts at once as it has rows, a token of each in a step."""

    def __init__(self, *, batches_continuously: bool = True) -> None:
        super().__init__(batches_continuously=batches_continuously)
        self.steps = 0

    def generate(self, prompts, sampling, *, seed, recording, **_):
        feed, running = enumerate(prompts), {}
        while True:
            while len(running) < ROWS and (following := next(feed, None)):
                running[following[0]] = (following[1], length_of(following[1]))
            if not running:
                return
            self.steps += 1
            for index, (prompt, left) in list(running.items()):
                running[index] = (prompt, left - 1)
                if left == 1:
                    del running[index]
                    own = seed if isinstance(seed, int) else seed[index]
                    text = f"{prompt.id} by {own}"
                    means = torch.full((2, 4), float(own % 97))
                    yield Completion(
                        index, text, (1, 2), "stop", Activations(means, torch.ones(2), 2), None
                    )


@dataclass(eq=False)
class Reference:
    """A call that is under way, and when it ends."""

    ends: float
    result: Any


@dataclass(eq=False)
class Actor:
    """Methods of an actor, as its handle has them."""

    open: Any
    work: Any
    close: Any


class SteppedRay:
    """Actors that take as long as their engines' steps; each call ends in its turn of time."""

    def __init__(self, engines: list[SteppingEngine], losses: int = 0) -> None:
        class RayError(Exception):
            pass

        self.exceptions = SimpleNamespace(
            RayError=RayError,
            RayTaskError=type("RayTaskError", (RayError,), {}),
            ActorDiedError=type("ActorDiedError", (RayError,), {}),
        )
        self.engines, self.losses, self.now = deque(engines), losses, 0.0
        self.given: list[int] = []
        self.restarts: list[Any] = []

    def remote(self, _kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def wait(self, references: list[Any], num_returns: int, timeout: float | None = None) -> Any:
        first = min(references, key=lambda reference: reference.ends)
        self.now = max(self.now, first.ends)
        return [first], [reference for reference in references if reference is not first]

    def get(self, reference: Any) -> Any:
        if isinstance(reference.result, Exception):
            raise reference.result
        return reference.result

    def kill(self, actor: Any) -> None:
        pass

    def _actor(self, spec: EngineSpec) -> Any:
        engine = self.engines.popleft()
        state = SimpleNamespace(actor=None)

        def restart() -> None:
            state.actor = EngineActor(spec)
            state.actor._opened = engine

        def call(name: str) -> Any:
            def ask(*arguments: Any, **named: Any) -> Any:
                before, begins = engine.steps, self.now
                if name == "open":
                    result: Any = FACTS
                else:
                    result = getattr(state.actor, name)(*arguments, **named)
                    self.given += [batch.number for batch in arguments[1]]
                    if self.losses and self.now > 200:
                        self.losses -= 1
                        restart()
                        result = self.exceptions.RayError("its machine is gone")
                return Reference(begins + engine.steps - before, result)

            return SimpleNamespace(remote=ask, options=lambda **_: SimpleNamespace(remote=ask))

        restart()
        self.restarts.append(restart)
        return Actor(*(call(name) for name in ("open", "work", "close")))


def cluster_of(actors: int, losses: int = 0, **kind: bool) -> tuple[Cluster, SteppedRay]:
    ray = SteppedRay([SteppingEngine(**kind) for _ in range(actors)], losses)
    pool = ActorPool(ray, EngineSpec("tiny", "vllm", {}, 1), EngineAllocation(actors, 1, 0))
    return Cluster(pool, "tiny"), ray


def texts(answers: Any) -> dict[int, list[str]]:
    return {answer.number: [rollout.text for rollout in answer.rollouts] for answer in answers}


def test_four_engines_are_nine_tenths_of_four_times_one():
    """Answers of uneven length. With a call for each batch, whose last answers ran nearly alone,
    it was 0.44 of four times one; now it is 0.91."""
    prompts, batches = prompts_of(64)
    alone = SteppingEngine()
    expected = texts(answer_prompts(alone, prompts, batches, SAMPLING, seed=3))
    cluster, ray = cluster_of(4)
    assert texts(cluster.answer(prompts, batches, SAMPLING, seed=3)) == expected
    assert alone.steps / (4 * ray.now) >= 0.9


@pytest.mark.parametrize("kind", [True, False], ids=["continuously", "batch by batch"])
def test_batches_of_an_engine_that_is_lost_are_answered_by_others_and_alike(kind):
    prompts, batches = prompts_of(12)
    engine = SteppingEngine(batches_continuously=kind)
    expected = texts(answer_prompts(engine, prompts, batches, SAMPLING, seed=3))
    cluster, ray = cluster_of(2, losses=2, batches_continuously=kind)
    assert texts(cluster.answer(prompts, batches, SAMPLING, seed=3)) == expected
    assert cluster.lost >= 2
    assert len(ray.given) == 12 + cluster.lost


def test_an_engine_that_came_back_unseen_is_given_its_batches_again():
    """Ray restarts an actor between two calls without a word to who calls it next."""
    prompts, batches = prompts_of(6)
    cluster, ray = cluster_of(1)
    answers = cluster.answer(prompts, batches, SAMPLING, seed=3)
    first = next(answers)
    ray.restarts.pop()()
    rest = list(answers)
    assert sorted(answer.number for answer in [first, *rest]) == list(range(6))


def test_a_call_that_was_left_early_leaves_nothing_to_the_next():
    prompts, batches = prompts_of(8)
    cluster, _ = cluster_of(2)
    next(cluster.answer(prompts, batches, SAMPLING, seed=3))
    engine = SteppingEngine()
    expected = texts(answer_prompts(engine, prompts, batches, SAMPLING, seed=4))
    assert texts(cluster.answer(prompts, batches, SAMPLING, seed=4)) == expected


def test_an_engine_without_rows_to_fill_gets_one_batch_at_a_time():
    prompts, batches = prompts_of(4)
    cluster, ray = cluster_of(2, batches_continuously=False)
    answers = cluster.answer(prompts, batches, SAMPLING, seed=3)
    next(answers)
    assert ray.given == [0, 1, 2]


def test_the_task_of_a_call_is_not_that_of_another():
    assert AnswerTask(0, SAMPLING, 3) != AnswerTask(1, SAMPLING, 3)
