"""A tiny model's runs, with floors and without, and the page over them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from keel import pipeline
from keel.settings import CalibrateSettings, UiSettings
from keel.store import RunFolder, open_run
from keel.testing import save_tiny_model
from keel.types import Sampling
from keel.ui import JobQueue, SideBySide, make_app
from keel.ui.server import TOKEN_HEADER
from tests.pipeline.small import INPUTS, SETTINGS, open_small

TOKEN = "the-token"
SHORT = {"max_new_tokens": 8, "temperature": 0}


@pytest.fixture(scope="session")
def bare_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a tiny Llama, without floors. To be read only."""
    model = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama")
    path = tmp_path_factory.mktemp("runs") / "bare"
    pipeline.extract(open_small(model), RunFolder(path), SETTINGS, inputs=INPUTS)
    return path


@pytest.fixture(scope="session")
def held_run(bare_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with floors at two percentiles. To be read only."""
    path = tmp_path_factory.mktemp("runs") / "held"
    shutil.copytree(bare_run, path)
    engine = open_small(Path(open_run(path).identity.model_id))
    settings = CalibrateSettings(percentiles=(50.0, 75.0), priced_rollouts=4)
    pipeline.calibrate(engine, RunFolder(path), settings)
    return path


def opened(run: Path) -> SideBySide:
    """A run with its model."""
    return SideBySide(open_small(Path(open_run(run).identity.model_id)), open_run(run))


@pytest.fixture(scope="session")
def model(held_run: Path) -> SideBySide:
    """The model of the run with floors."""
    return opened(held_run)


@dataclass(frozen=True)
class Page:
    """The page's requests, as the browser sends them."""

    client: TestClient

    def post(self, path: str, body: Any) -> Any:
        return self.client.post(path, content=json.dumps(body))

    def events(self, path: str = "/answer", **body: Any) -> list[dict[str, Any]]:
        """The events of a request to answer or to read."""
        if path == "/answer":
            body = {"message": "Who are you?", "sides": ["uncapped", "capped"], **SHORT, **body}
        response = self.post(path, body)
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    def answers(self, **body: Any) -> dict[str, Any]:
        """The answer on each side."""
        events = self.events(**body)
        assert events[-1]["event"] == "done", events[-1]
        return {e["side"]: e["answer"] for e in events if e["event"] == "answered"}


@pytest.fixture
def open_page() -> Iterator[Callable[..., Page]]:
    """Makes the page of a model, or of what stands in for it."""
    queues: list[JobQueue] = []

    def make(model: Any, **settings: Any) -> Page:
        queues.append(JobQueue())
        chosen = UiSettings(sampling=Sampling(max_new_tokens=8), **settings)
        app = make_app(model, queues[-1], chosen, TOKEN)
        headers = {TOKEN_HEADER: TOKEN}
        return Page(TestClient(app, base_url="http://127.0.0.1:8765", headers=headers))

    yield make
    for queue in queues:
        queue.close()


@pytest.fixture
def page(open_page: Callable[..., Page], model: SideBySide) -> Page:
    """The page of the run with floors."""
    return open_page(model)
