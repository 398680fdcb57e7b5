"""A sweep keeps what it found beside the calibration, and asks nothing twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import keel
from keel import pipeline
from keel.calibrate import Band, CalibrateSettings, ScreenLimits, SweepGrid
from keel.errors import MissingArtifactError, UsageError
from keel.evaluate.capability import CapabilitySettings, TaskSource
from keel.pipeline import SweepInputs, SweepSettings, report_inputs
from keel.store import RunFolder
from keel.types import (
    Case,
    Conversation,
    Grader,
    Item,
    Message,
    Rubric,
    RubricLabel,
    Sampling,
    Suite,
    Verdict,
)
from tests.evaluate.capability.small import write_items
from tests.pipeline.small import files, open_small, outcome

RUBRIC = Rubric(
    "harm", 1, "Is it harmful?", (RubricLabel("harmful", "yes"), RubricLabel("fine", "no"))
)


def item(persona: int, request: int) -> Item:
    said = (Message("system", f"You are ghost {persona}."), Message("user", f"Say {request}."))
    factors = {"persona": f"p{persona}", "request": f"r{request}"}
    return Item(f"p{persona}/r{request}", Conversation(said), factors)


SUITE = Suite(
    name="mild",
    items=tuple(item(p, r) for p, r in product(range(6), range(6))),
    rubric="harm",
    measure="harmful answers",
    counted=("harmful",),
    sampling=Sampling(max_new_tokens=3, temperature=1.0),
)


class Coin(Grader):
    """Calls an answer harmful by its own words' hash: other words, another throw."""

    name = "coin"

    def __init__(self) -> None:
        self.judged: list[str] = []

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        for case in cases:
            self.judged.append(case.id)
            words = case.conversation.messages[-1].content
            is_odd = hashlib.sha256(words.encode()).digest()[0] % 2
            yield Verdict(case.id, "harmful" if is_odd else "fine")


SETTINGS = SweepSettings(
    grid=SweepGrid(widths=(2,), centres=(1, 2, 3), percentiles=(50.0, 75.0)),
    limits=ScreenLimits(max_price=100.0, dominance_margin=10.0, max_settings=4),
    screened_on=3,
    limit=12,
    tolerance=1e6,
)


def inputs() -> SweepInputs:
    return SweepInputs(SUITE, Coin(), RUBRIC)


class Counting:
    """An engine that counts the prompts it answers and the conversations it reads."""

    def __init__(self, engine) -> None:
        self.answered, self.read_under = 0, 0
        generate, read, divergence = engine.generate, engine.read, engine.divergence

        def counted_generate(prompts, *args, **options):
            self.answered += len(prompts)
            return generate(prompts, *args, **options)

        def counted_read(conversations, **options):
            self.read_under += bool(options.get("interventions"))
            return read(conversations, **options)

        def counted_divergence(conversations, settings):
            self.read_under += len(settings)
            return divergence(conversations, settings)

        engine.generate, engine.read = counted_generate, counted_read
        engine.divergence = counted_divergence


@pytest.fixture(scope="session")
def swept_once(
    whole_with_floors: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The calibrated run, swept without interruption. To be read only."""
    path = tmp_path_factory.mktemp("runs") / "swept"
    shutil.copytree(whole_with_floors, path)
    pipeline.sweep(open_small(model_folder), RunFolder(path), inputs(), SETTINGS)
    return path


@pytest.fixture
def swept(swept_once: Path, tmp_path: Path) -> RunFolder:
    """A swept run of the test's own."""
    shutil.copytree(swept_once, tmp_path / "swept")
    return RunFolder(tmp_path / "swept")


def test_a_sweep_says_how_many_of_the_answers_it_scored_were_cut(swept: RunFolder):
    """Of harm: every answer that was kept. The price reads answers, and writes none."""
    sweep = swept.read().sweep
    ends = [
        answer["finish"]
        for path in swept.path.glob("evaluations/*/answers/*/batch-*.jsonl")
        for answer in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    ]
    assert ends
    assert sweep.harm.cut_share == ends.count("length") / len(ends)
    assert sweep.capability.cut_share is None


def test_what_was_found_is_kept_in_the_run(engine, calibrated: RunFolder):
    found = pipeline.sweep(engine, calibrated, inputs(), SETTINGS)
    run = keel.open_run(calibrated.path)
    assert run.sweep == found
    assert len(found.screened) == 6
    assert sum(found.fates.values()) == 6
    assert {one.name for one in found.swept} == {s.name for s in found.screened if s.fate == "kept"}


def test_measured_settings_can_be_used_by_name_beside_those_that_were_there(
    swept: RunFolder, whole_with_floors: Path
):
    run, before = swept.read(), RunFolder(whole_with_floors).read()
    assert run.settings[: len(before.settings)] == before.settings
    measured = {one.name for one in run.sweep.swept}
    assert measured
    assert measured | set(before.settings) == set(run.settings)
    marks = {name: run.floors_named(name).provenance.get("sweep") for name in run.settings}
    assert {name for name, mark in marks.items() if mark} == measured
    best = [name for name, mark in marks.items() if mark == "recommended"]
    assert best == [run.sweep.recommended] * bool(run.sweep.recommended)


def test_the_report_shows_the_sweep_and_not_each_of_its_evaluations(swept: RunFolder):
    run = swept.read()
    assert all(name.startswith("sweep-") for name in run.evaluations())
    assert run.evaluations()
    assert report_inputs(run).evaluations == {}


def test_capability_may_be_measured_by_tasks_of_lm_eval(engine, calibrated: RunFolder, tmp_path):
    pytest.importorskip("lm_eval")
    data = write_items(tmp_path)["gsm8k"]
    short = CapabilitySettings(limit=6, max_new_tokens=4)
    task = TaskSource("gsm8k", short, data)
    asked = replace(inputs(), tasks=(task,))
    found = pipeline.sweep(engine, calibrated, asked, replace(SETTINGS, capability_limit=6))
    assert (found.capability.name, found.capability.unit) == ("gsm8k", "share")
    assert found.capability.choosing_items == 3
    assert all(one.choosing.capability is not None for one in found.swept)
    again = pipeline.sweep(engine, calibrated, asked, replace(SETTINGS, capability_limit=6))
    assert again == found


def test_the_default_stays_the_calibration_s(swept: RunFolder, whole_with_floors: Path):
    found, before = swept.read(), RunFolder(whole_with_floors).read()
    assert found.floors.name == found.calibration.chosen == before.floors.name
    assert found.calibration.layers == before.calibration.layers


def test_a_calibrated_name_keeps_its_floors(swept: RunFolder, whole_with_floors: Path):
    before = RunFolder(whole_with_floors).read()
    for name in before.settings:
        heights = [[f.value for f in run.floors_named(name)] for run in (before, swept.read())]
        assert heights[0] == heights[1]


def test_swept_again_nothing_is_answered_read_or_judged_and_the_same_is_found(
    engine, swept: RunFolder
):
    counting, asked, before = Counting(engine), inputs(), files(swept.path)
    found = pipeline.sweep(engine, swept, asked, SETTINGS)
    assert (counting.answered, counting.read_under, asked.grader.judged) == (0, 0, [])
    assert found == keel.open_run(swept.path).sweep
    assert files(swept.path) == before


def test_the_unsteered_model_answers_each_item_once(engine, calibrated: RunFolder):
    counting = Counting(engine)
    found = pipeline.sweep(engine, calibrated, inputs(), SETTINGS)
    finalists = sum(one.deciding is not None for one in found.swept)
    # Six items choose: under each setting and unsteered; six decide: finalists and unsteered.
    asked = 6 * (len(found.swept) + 1) + (6 * (finalists + 1) if finalists else 0)
    assert counting.answered == asked


class Stopped(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("at", [2, 6, 15])
def test_interrupted_anywhere_and_gone_on_with_it_finds_the_same(
    engine, calibrated: RunFolder, swept_once: Path, at: int
):
    steps = iter(range(at))

    def stop(stage: str, done: int, total: int) -> None:
        if next(steps, None) is None:
            raise Stopped

    with pytest.raises(Stopped):
        pipeline.sweep(engine, calibrated, inputs(), SETTINGS, on_progress=stop)
    pipeline.sweep(engine, calibrated, inputs(), SETTINGS)
    assert outcome(calibrated.path) == outcome(swept_once)


def test_a_wider_grid_uses_what_a_smaller_one_found(engine, swept: RunFolder):
    counting = Counting(engine)
    grid = replace(SETTINGS.grid, percentiles=(25.0, 50.0, 75.0))
    limits = replace(SETTINGS.limits, max_settings=99)
    found = pipeline.sweep(engine, swept, inputs(), replace(SETTINGS, grid=grid, limits=limits))
    assert len(found.screened) == 9
    before = {one.name for one in RunFolder(swept.path).read().sweep.swept}
    fresh = len([one for one in found.swept if one.name in before])
    assert fresh == len(found.swept)  # all of them are in the run by now
    assert counting.answered <= 6 * (len(found.swept) - 4) + 6 * len(found.swept)


def test_a_run_that_was_not_calibrated_is_calibrated_first(engine, run: RunFolder):
    pipeline.sweep(engine, run, inputs(), SETTINGS)
    assert run.read().has_calibration
    assert run.read().has_sweep


def test_what_is_recommended_is_adopted_only_where_the_items_held_back_bear_it_out(
    engine, calibrated: RunFolder
):
    found = pipeline.sweep(engine, calibrated, inputs(), replace(SETTINGS, adopt=True))
    name = calibrated.read().floors.name
    if found.is_confirmed:
        assert name == found.recommended
    else:
        assert name == calibrated.read().calibration.chosen
        assert any("keeps its default" in told for told in found.warnings)


def test_calibrating_again_keeps_the_settings_of_the_sweep(engine, swept: RunFolder):
    before = set(swept.read().settings)
    settings = CalibrateSettings(percentiles=(50.0, 75.0), priced_rollouts=4)
    pipeline.calibrate(engine, swept, settings)
    assert set(swept.read().settings) == before
    assert swept.read().has_sweep


def test_calibrating_on_other_answers_ends_a_sweep_that_it_contradicts(engine, swept: RunFolder):
    """A swept setting's name would otherwise mean other floors than those measured."""
    name = swept.read().sweep.swept[0].name
    layers = swept.read().floors_named(name).layers
    settings = CalibrateSettings(
        bands=(Band(layers[0], layers[-1] + 1),),
        percentiles=(50.0, 75.0),
        priced_rollouts=4,
        rollouts=3,
        seed=5,
    )
    pipeline.calibrate(engine, swept, settings)
    assert name in swept.read().settings
    assert not swept.read().has_sweep
    assert not (swept.path / "sweep.json").exists()


def test_a_damaged_floors_file_can_still_be_calibrated_anew(engine, swept: RunFolder):
    (swept.path / "floors.safetensors").write_bytes(b"no")
    pipeline.calibrate(engine, swept, CalibrateSettings(percentiles=(75.0,), priced_rollouts=4))
    assert keel.open_run(swept.path).floors


def test_starting_over_deletes_what_the_sweep_was_working_on(swept: RunFolder):
    assert (swept.path / "sweep" / "screened.jsonl").exists()
    swept.clear()
    assert not [path for path in swept.path.rglob("*.json*") if "lock" not in path.name]


def test_the_working_folder_is_no_part_of_the_run(swept: RunFolder):
    listed = swept.read().manifest.files
    assert "sweep.json" in listed
    assert not [name for name in listed if name.startswith("sweep/")]
    assert any(name.startswith("evaluations/sweep-mild-") for name in listed)


def test_where_nothing_is_worth_measuring_that_is_told_with_the_counts(engine, calibrated):
    idle = replace(SETTINGS, limits=ScreenLimits(min_firing=1.0))
    with pytest.raises(UsageError, match="of 6 settings none is worth measuring: 6 inert;"):
        pipeline.sweep(engine, calibrated, inputs(), idle)


def test_the_price_is_told_and_nothing_kept(engine, calibrated: RunFolder):
    before = files(calibrated.path)
    told = pipeline.price_sweep(engine, calibrated, inputs(), SETTINGS)
    assert files(calibrated.path) == before
    assert told["settings in the grid"] == 6
    # Four settings and the unsteered model, six items in each half.
    assert told["answers, at most"] == 5 * 12
    assert (told["items to choose by"], told["items held back"]) == (6, 6)


def test_a_run_without_a_sweep_says_how_to_make_one(calibrated: RunFolder):
    assert not calibrated.read().has_sweep
    with pytest.raises(MissingArtifactError, match="keel calibrate .* --sweep"):
        _ = calibrated.read().sweep


def test_the_report_shows_the_frontier(swept: RunFolder):
    page = pipeline.report(swept).read_text(encoding="utf-8")
    assert 'id="figure-frontier"' in page
    assert 'id="figure-screening"' in page
