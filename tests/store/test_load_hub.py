"""Artefacts from the model hub: a small hub of our own answers, or nobody does."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import constants

from keel.errors import MissingArtifactError
from keel.store import export_axis_pt, export_capping_config_pt, load_axis, load_floors, save_axis
from keel.store.load import is_hub_id
from keel.types import AssistantAxis, Floors


class _Hub(BaseHTTPRequestHandler):
    """Serves `folder/org/name/file` at the hub's addresses; data sets under `datasets/`."""

    folder: Path

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        repository, _, file = self.path.strip("/").partition("/resolve/main/")
        path = self.folder / repository / file
        if not path.is_file():
            known = (self.folder / repository).is_dir() and file
            self._refuse("EntryNotFound" if known else "RepoNotFound")
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served as the hub."""
    (tmp_path / "hub").mkdir()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Hub", (_Hub,), {"folder": tmp_path / "hub"})
    )
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    _point_to(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch)
    yield tmp_path / "hub"
    server.shutdown()
    thread.join()
    server.server_close()


def _point_to(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_an_axis_of_a_model_repository_is_found(hub: Path, axis: AssistantAxis):
    save_axis(axis, hub / "org/name/axis.safetensors")
    assert torch.equal(load_axis("org/name").vector, axis.vector)


def test_the_references_data_set_is_found_by_folder_and_by_file(hub: Path, axis: AssistantAxis):
    export_axis_pt(axis, hub / "datasets/org/vectors/qwen/assistant_axis.pt")
    export_axis_pt(axis, hub / "datasets/org/vectors/other/mine.pt")
    for source in (
        "org/vectors/qwen",
        "org/vectors/qwen/assistant_axis.pt",
        "org/vectors/other/mine.pt",
    ):
        assert torch.equal(load_axis(source).vector, axis.vector)


def test_floors_of_the_hub_are_found(hub: Path, bands: tuple[Floors, Floors]):
    export_capping_config_pt(bands, hub / "datasets/org/vectors/qwen/capping_config.pt")
    assert load_floors("org/vectors/qwen", setting=bands[0].name).layers == (1, 2)


def test_a_repository_that_is_not_there_and_one_without_an_axis_are_told(hub: Path):
    (hub / "org/name").mkdir(parents=True)
    for source in ("org/name", "org/absent"):
        with pytest.raises(MissingArtifactError, match="no such repository with axis.safetensors"):
            load_axis(source)


def test_a_hub_that_does_not_answer_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _point_to(f"http://127.0.0.1:{port}", tmp_path, monkeypatch)
    with pytest.raises(
        MissingArtifactError, match="could not be fetched from the hub: .*point at it"
    ) as raised:
        load_axis("runs/smollm2")
    assert "\n" not in str(raised.value)


def test_what_was_fetched_once_is_there_without_a_network(
    hub: Path, tmp_path: Path, axis: AssistantAxis, monkeypatch: pytest.MonkeyPatch
):
    export_axis_pt(axis, hub / "datasets/org/name/assistant_axis.pt")
    load_axis("org/name/assistant_axis.pt")
    _point_to("http://127.0.0.1:9", tmp_path, monkeypatch)
    with pytest.raises(MissingArtifactError, match="could not be fetched from the hub"):
        load_axis("org/other")
    assert torch.equal(load_axis("org/name").vector, axis.vector)


def test_being_offline_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _point_to("http://127.0.0.1:9", tmp_path, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingArtifactError, match="could not be fetched from the hub"):
        load_axis("org/name")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("org/name", True),
        ("org/name/qwen-3-32b", True),
        ("org/name/qwen-3-32b/axis.pt", True),
        ("runs/axis.pt", False),
        ("./runs", False),
        ("../runs/x", False),
        ("/runs/x", False),
        ("~/runs", False),
        ("name", False),
        ("org/na me", False),
    ],
)
def test_what_can_be_a_hub_id(source: str, expected: bool):
    assert is_hub_id(source) is expected
