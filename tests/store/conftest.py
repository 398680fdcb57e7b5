"""Small values to keep and find again: 4 layers, 6 dimensions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from keel.geometry import unit
from keel.store import RunFolder, RunPlan
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    Calibration,
    Conversation,
    DriftReading,
    Floor,
    Floors,
    Interval,
    LayerCalibration,
    LayerQuality,
    Message,
    ModelIdentity,
    PersonaMap,
    PersonaSpace,
    PersonaVector,
    PricedSetting,
    Prompt,
    Replay,
    ReplayTurn,
    Rollout,
    TurnReading,
)

L, D, R, K = 4, 6, 3, 2
BATCHES = ((0, 2), (1, 4), (3, 5))


@pytest.fixture
def locked_out(tmp_path: Path) -> None:
    """Skips where permissions stop nobody, as they do not stop root."""
    probe = tmp_path / "probe"
    probe.touch(mode=0)
    if os.access(probe, os.R_OK):
        pytest.skip("this user may read and write everything")
    probe.unlink()


@pytest.fixture
def identity() -> ModelIdentity:
    return ModelIdentity("tiny", L, D, revision="r1", weights_hash="aa", dtype="float32")


@pytest.fixture
def axis(identity: ModelIdentity) -> AssistantAxis:
    torch.manual_seed(0)
    return AssistantAxis(
        vector=torch.randn(L, D),
        layer=2,
        default_projection=torch.arange(4.0),
        role_projection=-torch.arange(4.0) - 1,
        residual_norm=torch.full((L,), 7.0),
        identity=identity,
        provenance={"roles": 3, "label": "fully"},
    )


@pytest.fixture
def found_map(axis: AssistantAxis) -> PersonaMap:
    torch.manual_seed(1)
    interval = Interval(0.5, 0.4, 0.6)
    quality = [
        LayerQuality(n, 1.0, 0.9, interval, interval, 0.9, 0.8, interval, 0.3, float("nan"))
        for n in range(L)
    ]
    space = PersonaSpace(
        roles=("bard", "pirate", "editor"),
        mean_LD=torch.randn(L, D),
        components_LKD=torch.randn(L, K, D),
        variance_ratio_LK=torch.rand(L, K),
        loadings_LRK=torch.randn(L, R, K),
        coordinates_LRK=torch.randn(L, R, K),
        default_loadings_LK=torch.randn(L, K),
        default_coordinates_LK=torch.randn(L, K),
    )
    return PersonaMap(
        vectors=tuple(PersonaVector(r, "fully", torch.randn(L, D), 12) for r in space.roles),
        default_LD=torch.randn(L, D),
        default_count=40,
        dropped={"ghost": 2},
        axis=axis,
        space=space,
        quality=tuple(quality),
        warnings=("one role was dropped",),
    )


@pytest.fixture
def bands(axis: AssistantAxis) -> tuple[Floors, Floors]:
    """Two settings on the same directions."""
    return tuple(
        Floors(
            tuple(Floor(n, unit(axis.vector[n]), value + n / 3) for n in (1, 2)),
            name=name,
            identity=axis.identity,
            provenance={"percentile": percentile},
        )
        for name, value, percentile in (("layers_1:3-p50", -0.5, 50), ("layers_1:3-p75", 0.25, 75))
    )  # type: ignore[return-value]


@pytest.fixture
def calibration(bands: tuple[Floors, Floors]) -> Calibration:
    layer = LayerCalibration(1, {1: -2.0, 75: 0.1}, {1: -1.0}, 0.5, 0.1, (0, 1.0), (1.0,), (1.0,))
    settings = tuple(
        PricedSetting(band, p, {1: 0.25, 2: 0.5}, {1: 0.2, 2: 0.4}, 0.01, 0.3, 0.8)
        for band, p in zip(bands, (50.0, None), strict=True)
    )
    return Calibration((layer,), settings, chosen="layers_1:3-p75", price_bound=0.05)


@pytest.fixture
def reading() -> DriftReading:
    turn = TurnReading(0, 1.5, 0.25, (1.0, 2.0), "Ahoy – 🏴‍☠️\u2028!", is_below_floor=None)
    return DriftReading("../etc/passwd", 2, (turn,), floor=0.5)


@pytest.fixture
def replay(reading: DriftReading) -> Replay:
    turn = ReplayTurn("hello", reading.turns[0], reading.turns[0])
    return Replay("case/1", 2, 0.5, "layers_1:3-p75", (turn,), 0.25)


@pytest.fixture
def prompts() -> list[Prompt]:
    """Six prompts, one of them a conversation with given tokens."""
    spoken = Conversation((Message("system", "Be a pirate."), Message("user", "Who are you?")))
    longer = spoken.with_reply("Arr", (5, 6)).with_user("And now?")
    asked = [Prompt(f"pirate/p0/q{n}", spoken, "pirate", 0, n) for n in range(5)]
    return [*asked, Prompt("long", Conversation(longer.messages, "kept-id"))]


@pytest.fixture
def rollouts(prompts: list[Prompt]) -> list[Rollout]:
    return [Rollout(p, f"Arr {n}\r\n\u2028", (n, n + 1), "stop") for n, p in enumerate(prompts)]


@pytest.fixture
def activations(rollouts: list[Rollout]) -> ActivationBatch:
    """Multiples of 1/64 below 8, which float16 holds exactly."""
    means = torch.arange(6 * L * D).reshape(6, L, D) / 64
    ids = tuple(rollout.prompt.id for rollout in rollouts)
    return ActivationBatch(ids, means, torch.rand(6, L) * 1e6)


@pytest.fixture
def plan(identity: ModelIdentity) -> RunPlan:
    settings = {"scale": "smoke", "sampling": {"temperature": 0.7, "top_p": 0.9}, "roles": (1, 2)}
    return RunPlan(identity, settings, 7, BATCHES, {"system": "merged"}, "keel extract tiny -o run")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def filled(
    folder: RunFolder,
    plan: RunPlan,
    prompts: list[Prompt],
    rollouts: list[Rollout],
    activations: ActivationBatch,
) -> RunFolder:
    """A run whose batches are all there, without a map or a manifest."""
    folder.begin(plan, prompts)
    for number, places in enumerate(plan.batches):
        rows = list(places)
        ids = tuple(activations.rollout_ids[place] for place in places)
        part = ActivationBatch(ids, activations.means_BLD[rows], activations.norms_BL[rows])
        folder.commit_batch(number, [rollouts[place] for place in places], part)
    return folder


@pytest.fixture
def finished(filled: RunFolder, found_map: PersonaMap) -> RunFolder:
    """A run with its map and its manifest."""
    filled.save_map(found_map)
    filled.finish(counts={"rollouts": 6, "roles_dropped": 1})
    return filled


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.name == "nt" or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
