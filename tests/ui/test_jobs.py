"""One answer at a time, whoever asks and whatever goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from keel.errors import UsageError
from keel.ui import Job, JobQueue


class Listener:
    """Keeps a job's events, and can wait for its end."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict]] = []
        self.ended = threading.Event()

    def __call__(self, kind: str, **values: object) -> None:
        self.events.append((kind, values))
        if kind in ("done", "failed"):
            self.ended.set()

    def ends_with(self) -> str:
        assert self.ended.wait(30)
        return self.events[-1][0]


@pytest.fixture
def queue():
    made = JobQueue(max_waiting=2)
    yield made
    made.close()


def blocked(release: threading.Event) -> Callable[[Job], None]:
    def work(job: Job) -> None:
        while not (release.wait(0.01) or job.is_stopped()):
            pass

    return work


def begun(queue: JobQueue, work: Callable[[Job], None]) -> tuple[Job, Listener]:
    """A job that is running."""
    listener, running = Listener(), threading.Event()

    def begin(job: Job) -> None:
        running.set()
        work(job)

    job = Job(begin, listener)
    queue.add(job)
    assert running.wait(30)
    return job, listener


def test_jobs_wait_for_each_other_and_are_told_how_many_are_before_them(queue):
    release, order = threading.Event(), []
    _, first = begun(queue, blocked(release))
    second, third = Listener(), Listener()
    queue.add(Job(lambda _: order.append("second"), second))
    queue.add(Job(lambda _: order.append("third"), third))
    release.set()
    assert [each.ends_with() for each in (first, second, third)] == ["done"] * 3
    assert order == ["second", "third"]
    ahead = [values["ahead"] for kind, values in third.events if kind == "waiting"]
    assert ahead == [2, 1]


def test_too_many_are_refused_and_the_others_are_not_disturbed(queue):
    release = threading.Event()
    _, first = begun(queue, blocked(release))
    waiting = [Listener(), Listener()]
    for listener in waiting:
        queue.add(Job(lambda _: None, listener))
    with pytest.raises(UsageError, match="2 answers are waiting already"):
        queue.add(Job(lambda _: None, Listener()))
    release.set()
    assert {each.ends_with() for each in (first, *waiting)} == {"done"}


def test_a_stopped_job_that_waits_never_begins_and_makes_room(queue):
    release, order = threading.Event(), []
    begun(queue, blocked(release))
    jobs = [Job(lambda _, n=n: order.append(n), Listener()) for n in range(3)]
    queue.add(jobs[0])
    queue.add(jobs[1])
    assert queue.stop(jobs[0].id)
    assert jobs[0].on_event.ends_with() == "done"
    queue.add(jobs[2])
    release.set()
    assert jobs[2].on_event.ends_with() == "done"
    assert order == [1, 2]
    assert not queue.stop(jobs[0].id)


def test_the_running_job_is_stopped_alone(queue):
    job, first = begun(queue, blocked(threading.Event()))
    second = Listener()
    queue.add(Job(lambda _: None, second))
    assert queue.stop(job.id)
    assert first.ends_with() == second.ends_with() == "done"


@pytest.mark.parametrize(
    ("error", "said"),
    [(UsageError("no such role"), "no such role"), (ZeroDivisionError("x"), "a fault of Keel's")],
)
def test_an_error_is_said_in_words_and_the_next_job_runs(queue, error, said):
    def fail(_: Job) -> None:
        raise error

    failed, after = Listener(), Listener()
    queue.add(Job(fail, failed))
    queue.add(Job(lambda _: None, after))
    assert failed.ends_with() == "failed"
    assert said in failed.events[-1][1]["message"]
    assert after.ends_with() == "done"


def test_a_closed_queue_stops_what_runs_and_takes_nothing_more():
    queue = JobQueue()
    _, listener = begun(queue, blocked(threading.Event()))
    queue.close()
    assert listener.ends_with() == "done"
    with pytest.raises(UsageError, match="start it again with keel ui"):
        queue.add(Job(lambda _: None, Listener()))
