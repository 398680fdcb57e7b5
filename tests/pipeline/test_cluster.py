"""Engines on many machines make the very run that one process makes, whatever is lost meanwhile.

The machines are Ray's own simulation: nodes that are processes of this machine, on which nothing
is shared but the disk. One thread everywhere: how many add up a sum changes its last bits.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import keel
from keel import pipeline
from keel.errors import ModelLoadError
from keel.rollouts import Cluster, ClusterSettings, open_cluster
from keel.store import RunFolder
from tests.pipeline.small import INPUTS, ROLLOUTS, ROWS, SETTINGS, open_small, outcome, stopping_at
from tests.processes import Forked, keel_command

pytest.importorskip("ray")
_STORE_BYTES = 80 * 1024 * 1024


@dataclass
class Machines:
    """A cluster of nodes with one CPU each, beside a head that has none to give."""

    ray: Any
    """Ray's `Cluster`."""
    nodes: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.ray.address)

    def add(self) -> None:
        """One node more."""
        self.nodes.append(self.ray.add_node(num_cpus=1, object_store_memory=_STORE_BYTES))

    def engines(self) -> list[psutil.Process]:
        """The processes of engine actors."""
        return [
            child
            for node in self.nodes
            for started in node.all_processes.values()
            for one in started
            for child in psutil.Process(one.process.pid).children(recursive=True)
            if child.name().startswith("ray::EngineActor")
        ]

    def engines_are_gone(self, within_seconds: float = 20) -> bool:
        """Whether none is left: a cluster that closes asks its actors to end and does not wait."""
        until = time.monotonic() + within_seconds
        while self.engines() and time.monotonic() < until:
            time.sleep(0.1)
        return not self.engines()

    def lose_node_of(self, engine: psutil.Process) -> None:
        """The machine on which an engine runs is gone, with all its processes."""
        (node,) = [n for n in self.nodes if _raylet(n) in map(_pid, engine.parents())]
        self.nodes.remove(node)
        self.ray.remove_node(node, allow_graceful=False)
        engine.kill()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Here and, by the environment, in every process that is started."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray leaves a token in the home folder
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def machines(_one_thread: None) -> Iterator[Machines]:
    """Two machines; a test that loses one gets another."""
    from ray.cluster_utils import Cluster as Simulated

    head = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    simulated = Simulated(initialize_head=True, head_node_args=head)
    found = Machines(simulated)
    found.add()
    found.add()
    yield found
    simulated.shutdown()


@pytest.fixture
def two(machines: Machines) -> Machines:
    """Both of them there."""
    while len(machines.nodes) < 2:
        machines.add()
    return machines


@pytest.fixture(scope="module")
def alone(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that one process made."""
    folder = RunFolder(tmp_path_factory.mktemp("alone") / "run")
    pipeline.extract(open_small(model_folder), folder, SETTINGS, inputs=INPUTS)
    return outcome(folder.path)


@pytest.fixture
def begun(model_folder: Path, tmp_path: Path) -> RunFolder:
    """The same run, planned in its six small batches, and nothing answered."""
    folder = RunFolder(tmp_path / "run")
    stop = stopping_at(0, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        pipeline.extract(
            open_small(model_folder), folder, SETTINGS, inputs=INPUTS, on_progress=stop
        )
    return folder


@dataclass
class Up:
    """How many engines are open."""

    count: int = 0

    def __call__(self, opened: int, actors: int) -> None:
        self.count = opened

    def wait_for(self, cluster: Cluster, count: int) -> None:
        """Until so many are; a cluster takes in what is new whenever it is asked."""
        while self.count < count:
            cluster.plan([], SETTINGS.sampling)


def opened(model: Path, machines: Machines, actors: int, up: Up) -> Any:
    where = ClusterSettings(machines.address, actors)
    return open_cluster(str(model), where=where, on_engines=up, device="cpu", dtype="float32")


def extract(cluster: Cluster, folder: RunFolder, on_progress: Any = pipeline.silent) -> None:
    pipeline.extract(cluster, folder, SETTINGS, inputs=INPUTS, on_progress=on_progress)


def once_at(what: dict[int, Callable[[], None]]) -> Callable[[str, int, int], None]:
    """Progress that does each thing the first time that so many answers are there."""
    waiting = dict(what)

    def tell(stage: str, done: int, total: int) -> None:
        for count in [n for n in waiting if stage == "answering and recording" and n <= done]:
            waiting.pop(count)()

    return tell


def test_two_machines_make_the_run_of_one(two: Machines, model_folder: Path, begun, alone):
    """Every file, to the bit; whoever watches sees every answer counted once."""
    seen: list[tuple[int, int]] = []
    with opened(model_folder, two, 2, up := Up()) as cluster:
        up.wait_for(cluster, 2)
        extract(cluster, begun, lambda stage, *now: seen.append(now) if "answer" in stage else None)
        assert cluster.lost == 0
    assert outcome(begun.path) == alone
    assert seen == [(n, ROLLOUTS) for n in range(ROLLOUTS + 1)]
    assert two.engines_are_gone(), "engines outlived their cluster"


def test_an_engine_killed_with_its_batch_is_not_missed(two: Machines, model_folder, begun, alone):
    """It stands still from before its first batch on, and is then killed: the other answers that
    batch, too."""
    with opened(model_folder, two, 2, up := Up()) as cluster:
        up.wait_for(cluster, 2)
        victim = two.engines()[0]
        extract(cluster, begun, once_at({0: victim.suspend, 2 * ROWS: victim.kill}))
        assert cluster.lost == 1
    assert outcome(begun.path) == alone


def test_a_machine_lost_with_its_batch_is_not_missed(two: Machines, model_folder, begun, alone):
    with opened(model_folder, two, 2, up := Up()) as cluster:
        up.wait_for(cluster, 2)
        victim = two.engines()[0]
        lose = partial(two.lose_node_of, victim)
        extract(cluster, begun, once_at({0: victim.suspend, 2 * ROWS: lose}))
        assert cluster.lost == 1
    assert outcome(begun.path) == alone


def test_the_only_engine_comes_back_on_another_machine(two: Machines, model_folder, begun, alone):
    """Its own is gone; Ray opens it anew on the one that is left, and it goes on."""
    with opened(model_folder, two, 1, up := Up()) as cluster:
        up.wait_for(cluster, 1)
        (victim,) = two.engines()
        before = len(two.nodes)
        extract(cluster, begun, once_at({ROWS: partial(two.lose_node_of, victim)}))
        assert len(two.nodes) == before - 1
        assert cluster.lost == 1
    assert outcome(begun.path) == alone


def test_a_run_begun_on_many_machines_can_be_ended_by_one_process(
    two: Machines, model_folder, begun, alone
):
    with opened(model_folder, two, 2, Up()) as cluster, pytest.raises(ZeroDivisionError):
        extract(cluster, begun, stopping_at(2 * ROWS + 1, ZeroDivisionError()))
    assert 2 <= len(begun.committed()) < ROLLOUTS / ROWS
    pipeline.extract(open_small(model_folder), begun, SETTINGS, inputs=INPUTS)
    assert outcome(begun.path) == alone


def test_what_fails_on_another_machine_is_said_in_one_line_that_names_it(two: Machines, tmp_path):
    said = rf"^on {socket.gethostname()}: there is no folder or file {tmp_path}/none; .*$"
    with pytest.raises(ModelLoadError, match=said), opened(tmp_path / "none", two, 1, Up()):
        pass


def extracting(model: Path, folder: Path, *options: str) -> Forked:
    """`keel extract` in a folder of its own: 7 batches of a tiny model."""
    sizes = ["--role-count", "20", "--question-count", "16", "--max-new-tokens", "8"]
    how = ["--device", "cpu", "--dtype", "float32", "--json", *options]
    words = ["extract", str(model), "-o", "run", *sizes, *how]
    return Forked.of(keel_command, *words, folder=folder)


def test_a_command_killed_and_given_again_makes_the_run_of_one_process(
    two: Machines, model_folder, tmp_path
):
    """The process that gathers and writes is killed with -9; Ray sweeps its engines away."""
    code, _, said = extracting(model_folder, tmp_path / "alone").end()
    assert code == 0, said
    how = ("--cluster", two.address, "--actors", "2")
    first = extracting(model_folder, tmp_path / "many", *how)
    folder = RunFolder(tmp_path / "many" / "run")
    first.wait_for(lambda: len(folder.committed()) >= 2)
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert 2 <= len(folder.committed()) < 7
    code, out, said = extracting(model_folder, tmp_path / "many", *how).end()
    assert code == 0, said
    assert json.loads(out)["run"] == "run", "Ray's words are for stderr"
    assert outcome(folder.path) == outcome(tmp_path / "alone" / "run")


def test_ctrl_c_ends_it_with_130_and_its_engines_with_it(two: Machines, model_folder, tmp_path):
    command = extracting(model_folder, tmp_path / "many", "--cluster", two.address, "--actors", "2")
    command.wait_for(lambda: bool(two.engines()))
    code, _, said = command.end(signal.SIGINT)
    assert code == 130
    assert said.splitlines()[-1] == "keel: interrupted; run the same command again to go on"
    assert two.engines_are_gone()


def test_gpus_are_shared_out_and_a_connection_that_was_there_is_left_alone(model_folder):
    """Four GPUs, which Ray only counts here, two for each engine: two engines, each spread over
    its two."""
    import ray

    up: list[tuple[int, int]] = []
    ray.init(address="local", num_cpus=2, num_gpus=4, include_dashboard=False, log_to_driver=False)
    try:
        where = ClusterSettings(gpus=2)
        with open_cluster(
            str(model_folder), where=where, on_engines=lambda *now: up.append(now)
        ) as cluster:
            assert ray.available_resources().get("GPU", 0) <= 2
            assert cluster.identity.model_id == str(model_folder)
        assert up[:2] == [(0, 2), (1, 2)]
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@pytest.mark.real
def test_the_embedded_model_on_two_machines_has_the_axis_of_one_process(two: Machines, tmp_path):
    """Few roles and questions; batches of six, so that both machines have some."""
    settings = pipeline.ExtractSettings.at_scale("smoke")
    settings = replace(
        settings,
        prompts=replace(settings.prompts, roles=3, questions=3),
        sampling=replace(settings.sampling, max_new_tokens=12),
        mapping=replace(settings.mapping, min_count=3),
    )
    engine: Any = keel.open_engine("smollm2", device="cpu", dtype="float32")
    engine.budget = replace(engine.budget, rows=6)
    one, many = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "many")
    pipeline.extract(engine, one, settings)
    with pytest.raises(ZeroDivisionError):
        stop = stopping_at(0, ZeroDivisionError())
        pipeline.extract(engine, many, settings, on_progress=stop)
    with opened(Path("smollm2"), two, 2, up := Up()) as cluster:
        up.wait_for(cluster, 2)
        pipeline.extract(cluster, many, settings)
    assert torch.equal(many.read().axis.vector, one.read().axis.vector)
    assert outcome(many.path) == outcome(one.path)


def _raylet(node: Any) -> int:
    (raylet,) = node.all_processes["raylet"]
    return int(raylet.process.pid)


def _pid(process: psutil.Process) -> int:
    return process.pid
