"""A cluster that is not there is refused in seconds, in one line. None is started here."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from keel.cli import run as run_command
from keel.errors import ClusterError, MissingExtraError, UsageError
from keel.rollouts import ClusterSettings, open_cluster


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379", "127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer_is_refused_at_once(address: str):
    """Ray itself tries for two minutes, and then ends the process."""
    began = time.monotonic()
    said = f"no Ray cluster answers at '{address}': .*; start one with `ray start --head`"
    with pytest.raises(ClusterError, match=said), open_cluster("m", where=ClusterSettings(address)):
        pass
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_port_of_something_else_is_refused_at_once(answer: bytes):
    """The dashboard's, say. Ray itself waits for seven minutes, and then ends the process."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=_answer_once, args=(listening, answer), daemon=True).start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with (
            pytest.raises(ClusterError, match="what listens there is not Ray's head"),
            open_cluster("m", where=ClusterSettings(address)),
        ):
            pass


def _answer_once(listening: socket.socket, answer: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(answer)


def test_the_command_says_so_in_one_line_and_leaves_nothing_behind(tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["extract", "smollm2", "-o", str(run), "--cluster", "127.0.0.1:1"]
    assert run_command(arguments) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("keel: no Ray cluster answers at '127.0.0.1:1': ")
    assert not run.exists()


@pytest.fixture
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that belongs to none; returns where Ray looks for one."""
    if any("gcs_server" in process.name() for process in psutil.process_iter()):
        pytest.skip("this machine belongs to a Ray cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path / "ray"


def test_a_machine_of_no_cluster_is_told_so(no_cluster):
    said = "at 'auto': this machine belongs to none, and RAY_ADDRESS is not set; start one"
    with pytest.raises(ClusterError, match=said), open_cluster("m"):
        pass


def test_a_cluster_that_has_died_is_not_waited_for(no_cluster):
    """It leaves its address behind; Ray itself tries that for eight minutes."""
    no_cluster.mkdir()
    (no_cluster / "ray_current_cluster").write_text("127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(ClusterError, match="no Ray cluster answers at '.*:1'"), open_cluster("m"):
        pass
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("address", ["ray://head:10001", "head", ":6379", "head:port", ""])
def test_what_is_no_address_is_refused(address: str):
    with (
        pytest.raises(UsageError, match=f"address is '{address}'"),
        open_cluster("m", where=ClusterSettings(address)),
    ):
        pass


@pytest.mark.parametrize("given", [{"actors": 0}, {"gpus": -1}])
def test_numbers_that_make_no_sense_are_refused(given: dict[str, int]):
    with pytest.raises(UsageError, match="expected"):
        ClusterSettings(**given)


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = r"Ray is not installed; pip install 'keel-llm\[cluster\]'"
    with pytest.raises(MissingExtraError, match=said), open_cluster("m"):
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--actors", "2"], "--actors and --actor-gpus are for a cluster; add --cluster auto"),
        (["--actor-gpus", "2"], "--actors and --actor-gpus are for a cluster"),
        (["--cluster", "auto", "--judge", "likelihood"], "then: keel judge RUN --remap"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said, tmp_path, capsys):
    run = tmp_path / "run"
    assert run_command(["extract", "smollm2", "-o", str(run), *options]) == 3
    assert said in capsys.readouterr().err
    assert not run.exists()
