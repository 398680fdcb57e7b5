"""Several threads and tasks on one model: each in a pass of its own, contexts in one nest."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from keel.errors import UsageError
from keel.geometry import unit
from keel.steering import Firing, Probe, recorded, steered
from keel.testing import tiny_model
from keel.types import Floor

V = unit(torch.randn(32, generator=torch.Generator().manual_seed(0)))
FLOORS = [Floor(1, V, 3.0), Floor(2, V, 3.0)]
ROWS = torch.randint(10, 90, (4, 1, 9), generator=torch.Generator().manual_seed(1))
LENGTH = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


def answer(model, ids):
    return model.generate(ids, **LENGTH)


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.mark.parametrize("tokens", ["all", "generated"])
def test_threads_generate_at_once_in_one_context(model, tokens):
    """Once, the pass of a thread ended that of another: right outputs were called unproven."""
    floors = [Floor(1, V, 3.0, tokens=tokens), Floor(2, V, 3.0, tokens=tokens)]
    with steered(model, floors) as steering:
        in_turn = [answer(model, ids) for ids in ROWS]
        counted = steering.firing()
    with steered(model, floors) as steering, ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda ids: answer(model, ids), ROWS))
        steering.firing()  # in the middle or at the end: no false alarm
    assert all(map(torch.equal, at_once, in_turn))
    assert steering.firing() == counted


def test_threads_are_recorded_at_once(model):
    with recorded(model, tokens="generated", probes=[Probe(1, V)]) as record:
        for ids in ROWS:
            answer(model, ids)
    with (
        recorded(model, tokens="generated", probes=[Probe(1, V)]) as at_once,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda ids: answer(model, ids), ROWS))
    assert at_once.counts == [11] * 4
    in_order, wanted = (each.means[each.means[:, 3, 0].argsort()] for each in (at_once, record))
    torch.testing.assert_close(in_order, wanted)


def test_a_thread_that_was_started_inside_is_steered(model):
    with steered(model, FLOORS) as steering:
        capped = answer(model, ROWS[0])
        half = steering.firing()
        answers = []
        thread = threading.Thread(target=lambda: answers.append(answer(model, ROWS[0])))
        thread.start()
        thread.join()
    assert torch.equal(answers[0], capped)
    assert steering.firing() == half + half


@pytest.mark.parametrize("context", [lambda m: steered(m, FLOORS), recorded])
def test_a_context_in_a_thread_of_its_own_is_refused_while_another_is_open(model, context):
    def enter():
        with context(model):
            pass

    with ThreadPoolExecutor(1) as pool:
        with steered(model, FLOORS), pytest.raises(UsageError, match="another thread or task"):
            pool.submit(enter).result()
        pool.submit(enter).result()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_thread_nests_where_it_is_given_the_context(model):
    with steered(model, FLOORS[:1]), ThreadPoolExecutor(1) as pool:

        def inner():
            with steered(model, FLOORS[1:]):
                return answer(model, ROWS[0])

        both = pool.submit(contextvars.copy_context().run, inner).result()
    with steered(model, FLOORS):
        assert torch.equal(both, answer(model, ROWS[0]))


def test_tasks_that_interleave_are_refused_not_mixed(model):
    async def task(value, started, may_go_on):
        with steered(model, [Floor(1, V, value)]):
            started.set()
            await may_go_on.wait()
            return answer(model, ROWS[0])

    async def both():
        started, may_go_on = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(task(3.0, started, may_go_on))
        await started.wait()
        with pytest.raises(UsageError, match="another thread or task"):
            await asyncio.create_task(task(5.0, asyncio.Event(), may_go_on))
        may_go_on.set()
        return await first

    mixed = asyncio.run(both())
    with steered(model, [Floor(1, V, 3.0)]):
        assert torch.equal(mixed, answer(model, ROWS[0]))


def test_a_task_outside_is_refused_not_steered(model):
    """Once, its answer was another task's: steered as the context that it knew nothing of."""

    async def both():
        entered, may_go_on = asyncio.Event(), asyncio.Event()

        async def inside():
            with steered(model, FLOORS):
                entered.set()
                await may_go_on.wait()
                return answer(model, ROWS[0])

        first = asyncio.create_task(inside())
        await entered.wait()
        with pytest.raises(UsageError, match="another thread or task.*this pass"):
            answer(model, ROWS[0])
        may_go_on.set()
        return await first, answer(model, ROWS[0])

    plain = answer(model, ROWS[0])
    capped, after = asyncio.run(both())
    assert torch.equal(after, plain)
    with steered(model, FLOORS):
        assert torch.equal(capped, answer(model, ROWS[0]))


def test_a_task_whose_child_has_nested_a_context_is_refused_until_that_is_left(model):
    async def parent():
        entered, may_go_on = asyncio.Event(), asyncio.Event()

        async def child():
            with steered(model, FLOORS[1:]):
                entered.set()
                await may_go_on.wait()

        with steered(model, FLOORS[:1]):
            nested = asyncio.create_task(child())
            await entered.wait()
            with pytest.raises(UsageError, match="another thread or task.*this pass"):
                answer(model, ROWS[0])
            may_go_on.set()
            await nested
            return answer(model, ROWS[0])

    alone = asyncio.run(parent())
    with steered(model, FLOORS[:1]):
        assert torch.equal(alone, answer(model, ROWS[0]))


def test_a_context_that_an_ended_task_left_open_holds_for_the_next(model):
    """As a notebook's cells do, each a task of its own."""

    async def cells():
        held = steered(model, FLOORS)
        await asyncio.create_task(entering(held))
        capped = answer(model, ROWS[0])
        held.__exit__(None, None, None)
        return capped

    async def entering(held):
        held.__enter__()

    capped = asyncio.run(cells())
    with steered(model, FLOORS):
        assert torch.equal(capped, answer(model, ROWS[0]))


def test_tasks_inside_one_context_share_it(model):
    async def both():
        with steered(model, FLOORS) as steering:
            await asyncio.gather(*(asyncio.to_thread(answer, model, ids) for ids in ROWS[:2]))
        return steering.firing()

    with steered(model, FLOORS) as steering:
        for ids in ROWS[:2]:
            answer(model, ids)
    assert asyncio.run(both()) == steering.firing()


def test_a_generator_may_be_closed_by_another_thread(model):
    """What an engine leaves half done, a later call closes, whoever makes it."""

    def hold():
        with steered(model, FLOORS):
            yield

    held = hold()
    next(held)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(held.close).result()
    with steered(model, FLOORS) as steering:
        answer(model, ROWS[0])
    assert isinstance(steering.firing(), Firing)
