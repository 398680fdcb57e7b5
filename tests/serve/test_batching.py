"""Requests gathered into batches, on a fake engine that counts its calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from keel.drift import Gauge
from keel.engines import Results
from keel.errors import NotAppliedError, UsageError
from keel.geometry import unit
from keel.serve import PendingRequest, RequestBatcher, ServedModel
from keel.testing import FakeEngine
from keel.types import Conversation, Floor, Floors, Message, Prompt, Sampling

LAYER = 2
WAIT_S = 20


class Counted(FakeEngine):
    """Notes the questions of each call; refuses those that say `refuse`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.calls: list[list[str]] = []
        self.threads: set[int] = set()
        self.busy = 0

    def plan(self, prompts, sampling):
        if any("refuse" in prompt.conversation.messages[-1].content for prompt in prompts):
            raise UsageError("it does not fit")
        return super().plan(prompts, sampling)

    def generate(self, prompts, sampling, **rest):
        assert self.busy == 0, "two calls at once"
        self.calls.append([prompt.conversation.messages[-1].content for prompt in prompts])
        self.threads.add(threading.get_ident())
        results = super().generate(prompts, sampling, **rest)

        def counted():
            self.busy += 1
            yield from results
            self.busy -= 1
            return results.firing

        return Results(counted(), [floor.layer for floor in rest["interventions"]])


class Endless(Counted):
    """Makes steps for an hour before its first answer."""

    def generate(self, prompts, sampling, *, on_step, **rest):
        ends = time.monotonic() + 3600

        def steps():
            while time.monotonic() < ends:
                on_step()
                time.sleep(0.005)
            yield from super(Endless, self).generate(prompts, sampling, **rest)

        return Results(steps())


@pytest.fixture
def gathered():
    """Makes gatherers, and closes them."""
    made: list[RequestBatcher] = []

    def make(engine: FakeEngine, *, capped: bool = True, **settings: Any) -> RequestBatcher:
        made.append(RequestBatcher(held_by(engine, capped), **{"quiet_s": 0.2, **settings}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def held_by(engine: FakeEngine, capped: bool = True) -> ServedModel:
    direction = unit(engine.axis.vector[LAYER])
    floors = Floors((Floor(LAYER, direction, 2.5),), "layers_2:3-p50")
    gauge = Gauge.of(engine, engine.axis, layer=LAYER)
    return ServedModel(cast(Any, engine), gauge, floors if capped else None)


def asked(text: str, sampling: Sampling = Sampling(), seed: int = 0) -> PendingRequest:
    return PendingRequest(Prompt(text, Conversation((Message("user", text),))), sampling, seed)


def answers(gatherer: RequestBatcher, *requests: PendingRequest) -> list[str]:
    assert all(gatherer.offer(one) for one in requests)
    return [one.future.result(WAIT_S).completion.text for one in requests]


def test_requests_that_come_together_are_one_call_of_the_engine(gathered):
    """A fake engine plans batches of four: eight requests are two calls, not eight."""
    engine = Counted()
    requests = [asked(f"number {n}") for n in range(8)]
    answers(gathered(engine), *requests)
    assert [len(call) for call in engine.calls] == [4, 4]
    assert {one.future.result().batch_size for one in requests} == {4}


def test_every_request_gets_its_own_answer(gathered):
    """A fake engine echoes the last message's words in some order."""
    texts = [f"alpha{n} beta{n}" for n in range(6)]
    found = answers(gathered(Counted(), capped=False), *map(asked, texts))
    assert [set(one.split()) for one in found] == [set(text.split()) for text in texts]


def test_requests_with_other_sampling_are_another_batch(gathered):
    engine = Counted()
    short = Sampling(max_new_tokens=3)
    answers(gathered(engine), asked("a"), asked("b", short), asked("c"), asked("d", short))
    assert sorted(map(sorted, engine.calls)) == [["a", "c"], ["b", "d"]]


def test_a_seed_decides_the_same_alone_and_in_company(gathered):
    text = " ".join(f"word{n}" for n in range(30))
    (alone,) = answers(gathered(Counted()), asked(text, seed=5))
    others = [asked(f"other {n}", seed=n) for n in range(3)]
    *_, together = answers(gathered(Counted()), *others, asked(text, seed=5))
    assert alone == together


def test_one_thread_asks_the_engine_however_many_ask_us(gathered):
    engine = Counted()
    gatherer = gathered(engine, quiet_s=0.01)
    requests = [asked(f"number {n}") for n in range(40)]

    def offer(part: list[PendingRequest]) -> None:
        assert all(gatherer.offer(one) for one in part)

    threads = [threading.Thread(target=offer, args=(requests[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for one in requests:
        one.future.result(WAIT_S)
    assert len(engine.threads) == 1
    assert sorted(text for call in engine.calls for text in call) == sorted(
        f"number {n}" for n in range(40)
    )


def test_what_is_wrong_with_one_request_is_told_to_it_alone(gathered):
    bad, good = asked("refuse this"), asked("hello there")
    gatherer = gathered(Counted())
    assert gatherer.offer(bad)
    answers(gatherer, good)
    with pytest.raises(UsageError, match="does not fit"):
        bad.future.result(WAIT_S)


def test_no_answer_is_given_out_when_the_engine_was_not_held(gathered):
    one = asked("hello")
    gathered(Counted(unreached_layers=[LAYER])).offer(one)
    with pytest.raises(NotAppliedError, match=r"at layers \[2\] saw no token"):
        one.future.result(WAIT_S)


def test_an_uncapped_model_needs_no_firing(gathered):
    (text,) = answers(gathered(Counted(unreached_layers=[LAYER]), capped=False), asked("hello"))
    assert text == "hello"


def test_a_request_that_was_cancelled_is_not_answered(gathered):
    engine = Counted()
    gone, kept = asked("gone"), asked("kept")
    gone.future.cancel()
    gatherer = gathered(engine)
    assert gatherer.offer(gone)
    answers(gatherer, kept)
    assert engine.calls[-1] == ["kept"]


def test_a_full_queue_takes_no_more_until_there_is_room(gathered):
    release = threading.Event()
    gatherer = gathered(Counted(reply=waiting_for(release)), max_waiting=2, quiet_s=0.01)
    first = asked("first")
    assert gatherer.offer(first)
    until(first.future.running)
    assert gatherer.offer(asked("second"))
    assert gatherer.offer(asked("third"))
    late = asked("late")
    assert not gatherer.offer(late)
    release.set()
    until(lambda: gatherer.offer(late))
    assert late.future.result(WAIT_S).completion.text == "done"


def test_closing_stops_what_is_at_work_and_tells_those_who_wait(gathered):
    """The engine would go on for an hour, one step at a time."""
    before = threading.active_count()
    gatherer = gathered(Endless(), quiet_s=0.01)
    running, waiting = asked("running"), asked("waiting")
    assert gatherer.offer(running)
    until(running.future.running)
    assert gatherer.offer(waiting)
    gatherer.close()
    for one in (running, waiting):
        with pytest.raises(UsageError, match="closed before it answered"):
            one.future.result(WAIT_S)
    with pytest.raises(UsageError, match="closed"):
        gatherer.offer(asked("late"))
    assert threading.active_count() == before


def waiting_for(release: threading.Event) -> Callable[..., str]:
    """A reply that is given once it is released, or after an hour."""

    def reply(*_: object) -> str:
        until(release.is_set, limit_s=3600)
        return "done"

    return reply


def until(holds: Callable[[], bool], limit_s: float = WAIT_S) -> None:
    ends = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)
