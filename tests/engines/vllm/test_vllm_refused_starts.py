"""Servers that cannot hold as asked: each ends by itself, with a line that says why."""

from __future__ import annotations

import importlib.util
import json

import pytest

from keel.store import save_floors
from keel.types import Floors
from tests.engines.vllm.http_servers import server_starter
from tests.engines.vllm.serving_vllm import band, tiny

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def floors(tmp_path_factory):
    path = tmp_path_factory.mktemp("floors") / "floors.safetensors"
    bands = [Floors(tuple(band(2.0)), "low"), Floors(tuple(band(4.0, seed=5)), "high")]
    save_floors(bands, path, default="high")
    return str(path)


@pytest.fixture(scope="module")
def starts():
    with server_starter() as starts:
        yield starts


def said_at_its_end(starts, folder, environment, output, *arguments):
    """What a server said until it ended by itself, with an error."""
    assert starts(folder, environment, output, *arguments) not in (0, -9)
    return output.read_text()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KEEL_FLOORS": "/nowhere/at/all"}, "keel: /nowhere/at/all"),
        ({"KEEL_SETTING": "hihg"}, "keel: KEEL_SETTING is 'hihg'"),
        ({"KEEL_FLOOR": "run"}, "keel: KEEL_FLOOR is no variable of Keel's"),
        ({"KEEL_FLOORS": ""}, "keel: KEEL_FLOORS is empty"),
        ({"KEEL_FLOORS": " \t"}, "keel: KEEL_FLOORS is empty"),
        ({"VLLM_USE_RUST_FRONTEND": "1"}, "keel: VLLM_USE_RUST_FRONTEND passes Keel's front by"),
        ({"VLLM_USE_RUST_FRONTEND": "2"}, "keel: VLLM_USE_RUST_FRONTEND passes Keel's front by"),
    ],
    ids=["no file", "no such setting", "a typo", "empty", "blank", "rust", "rust, too"],
)
def test_a_server_that_cannot_hold_as_asked_does_not_start(
    starts, folder, floors, tmp_path, environment, message
):
    """And says so in one line: it was the end of a long traceback.

    An empty path (`KEEL_FLOORS=$RUN` where RUN is not set) was served uncapped, as what goes
    through vLLM's front in Rust would be.
    """
    environment = {"KEEL_FLOORS": floors, **environment}
    said = said_at_its_end(starts, folder, environment, tmp_path / "said")
    assert message in said
    assert "Traceback" not in said


def engines_of(multi):
    return {"kv_connector": "MultiConnector", "kv_role": "kv_both"} | {
        "kv_connector_extra_config": {"connectors": multi}
    }


EXAMPLE = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runner", "pooling"), "keel: --runner pooling answers nothing"),
        (
            ("--kv-transfer-config", json.dumps(engines_of([engines_of([EXAMPLE])]))),
            "keel: ExampleConnector was not shown to keep the cache salt",
        ),
    ],
    ids=["pooling", "a cache within caches"],
)
def test_what_cannot_be_held_ends_a_server_with_one_line(
    starts, folder, floors, tmp_path, arguments, message
):
    """Pooling died in the self-test after 30 s; the connector mixed settings."""
    said = said_at_its_end(starts, folder, {"KEEL_FLOORS": floors}, tmp_path / "said", *arguments)
    assert message in said
    assert "Traceback" not in said


def test_floors_of_another_model_are_refused(starts, floors, tmp_path):
    other = tiny(tmp_path, hidden=256)
    said = said_at_its_end(starts, other, {"KEEL_FLOORS": floors}, tmp_path / "said")
    assert "128" in said
    assert "256" in said
