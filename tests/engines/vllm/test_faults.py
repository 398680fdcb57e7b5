"""What fails behind an answer: said once a minute, counted, and never in the answer's way."""

import asyncio
from types import SimpleNamespace

import pytest

from keel.engines.vllm import FAILED, LATE, NOT_SEEN, AnswerSums, FaultLog, UnreadAnswer
from keel.engines.vllm.answer_sums import SUMS_FAILED, SUMS_LATE, SumsReader
from keel.engines.vllm.faults import SERIES
from keel.engines.vllm.metrics import FIRING_FAILED, NUMBERS_FAILED, EngineReader

prometheus = pytest.importorskip("prometheus_client")


def counted(kind):
    return prometheus.REGISTRY.get_sample_value(SERIES, {"kind": kind})


def test_a_kind_of_fault_has_a_line_a_minute_and_all_are_counted(capsys):
    now = [0.0]
    faults = FaultLog(clock=lambda: now[0])
    assert counted("a pump stops") is None
    for _ in range(100):
        faults.note("a pump stops", RuntimeError("no\nwater"))
    faults.note("a lamp breaks", TimeoutError())
    now[0] = 61.0
    faults.note("a pump stops", "still none")
    assert capsys.readouterr().err.splitlines() == [
        "keel: a pump stops: no water",
        "keel: a lamp breaks: TimeoutError",
        "keel: a pump stops, 100 times since it was last said: still none",
    ]
    assert counted("a pump stops") == 101


def read(call, keys=("a", "b")):
    async def reading():
        return await SumsReader(call).read(None, keys)

    return asyncio.run(reading())


def test_workers_that_fail_leave_answers_unread_with_a_line_and_a_count(capsys):
    async def call(client, keys):
        raise RuntimeError("EngineCore died")

    before = counted(SUMS_FAILED) or 0
    assert read(call) == [UnreadAnswer(FAILED)] * 2
    assert capsys.readouterr().err == f"keel: {SUMS_FAILED}: EngineCore died\n"
    assert counted(SUMS_FAILED) == before + 1


@pytest.mark.parametrize("workers", [[[None]], [None], 5], ids=["short", "none", "no list"])
def test_workers_that_answer_nonsense_have_failed(workers, capsys):
    async def call(client, keys):
        return workers

    assert read(call) == [UnreadAnswer(FAILED)] * 2
    assert SUMS_FAILED in capsys.readouterr().err


def test_workers_that_take_too_long_leave_answers_unread_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr("keel.engines.vllm.answer_sums._PATIENCE_S", 0.01)

    async def call(client, keys):
        await asyncio.sleep(60)

    assert read(call) == [UnreadAnswer(LATE)] * 2
    assert capsys.readouterr().err == f"keel: {SUMS_LATE}: not within 0.01 s\n"


def test_an_answer_that_no_worker_knows_is_no_fault(capsys):
    async def call(client, keys):
        return [[None, None], [None, [4, 2.0, 1.0, 2.0, 0.5]]]

    assert read(call) == [UnreadAnswer(NOT_SEEN), AnswerSums(4, 2.0, 1.0, 2.0, 0.5)]
    assert capsys.readouterr().err == ""


NUMBERS = {"default_is_held": True, "tested_s_ago": 1.0, "requests": {}, "firing": {}, "fault": ""}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (RuntimeError("EngineCore died"), NUMBERS_FAILED),
        ([{**NUMBERS, "fault": "layer 2 was passed by"}], FIRING_FAILED),
    ],
    ids=["the engine died", "floors passed by"],
)
def test_engines_that_give_no_numbers_are_said_and_counted(answer, kind, capsys):
    class Engines:
        async def call_utility_all_async(self, *_):
            if isinstance(answer, Exception):
                raise answer
            return answer

    before = counted(kind) or 0
    asyncio.run(EngineReader().read(SimpleNamespace(engine_core=Engines()), "low"))
    assert capsys.readouterr().err.startswith(f"keel: {kind}: ")
    assert counted(kind) == before + 1
