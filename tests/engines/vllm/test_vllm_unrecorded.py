"""An engine that keeps the keys of prompts and has room for no recording, started once."""

from __future__ import annotations

import importlib.util

import pytest

from keel.engines import Recording
from keel.errors import UsageError
from tests.engines.vllm.serving_vllm import GREEDY, band, prompt, started, tiny

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

SETTINGS = {"u": ("none", []), "s": ("held", band(10.0))}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with started(tiny(tmp_path_factory.mktemp("models")), recordings=0, probes=0) as engine:
        yield engine


@pytest.mark.parametrize("order", ["us", "su", "usu", "sus", "uus", "ssu"])
def test_no_setting_gets_the_cached_keys_of_another(engine, order):
    """A long prompt shared by steered (s) and unsteered (u) requests, in all orders: a plugin for
    vLLM was published whose next unsteered request changed its text."""
    # By its first word each order has a prompt of its own, of which no key is cached yet.
    asked = prompt(" ".join([order, *["the sea is wide and the ship is small"] * 12]))
    answers = {"u": set(), "s": set()}
    for kind in order:
        answers[kind].add(_under_fixed_name(engine, *SETTINGS[kind], asked))
    assert len(answers["u"]) == len(answers["s"]) == 1
    assert answers["u"] != answers["s"]


def _under_fixed_name(engine, name, interventions, asked):
    from keel.engines.vllm.packing import PackedInterventions
    from keel.engines.vllm.requests import RecordedRequest

    if interventions:
        engine.workers.call(
            "register", name, PackedInterventions.of(name, interventions).to_bytes()
        )
    ids = engine.template.prompt_ids(asked.conversation)
    request = RecordedRequest(0, ids, engine._sampling(GREEDY, 0, ()), ())
    ((_, output),) = next(engine.queue.run([request], name))
    return tuple(output.outputs[0].token_ids)


def test_recording_is_refused(engine):
    with pytest.raises(UsageError):
        list(engine.generate([prompt("a")], GREEDY, seed=0, recording=Recording(means=True)))
