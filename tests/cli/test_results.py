"""What a command found is on stdout, as words or as one JSON document; how far it is, on stderr."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

import keel as library
from keel import pipeline
from tests.cli.commands import CPU, SMALL, contents, talk

TALK = (
    ("system", "You are a ghost."),
    ("user", "Who are you?"),
    ("assistant", "I am who I was."),
    ("user", "And the sea?"),
    ("assistant", "It is wide."),
)


@pytest.fixture
def transcript(place: Path) -> Path:
    return talk(Path("talk.json"), *TALK)


def test_extract_tells_its_main_numbers(keel, model, place):
    found = keel("extract", model, "-o", "run", *SMALL, "--json").json
    made = library.open_run("run").persona_map
    quality = made.quality[made.axis.layer]
    assert (found["run"], found["layer"], found["layers"]) == ("run", made.axis.layer, 4)
    assert found["auc"] == {
        "value": quality.auc.value,
        "low": quality.auc.low,
        "high": quality.auc.high,
    }
    counts = library.open_run("run").manifest.counts
    assert found["cut_share"] == counts["cut at the token limit"] / counts["rollouts"]
    assert set(found["roles"]) == {vector.role for vector in made.vectors}
    assert list(found["roles"].values()) == sorted(found["roles"].values())
    assert sum(found["roles"].values()) == pytest.approx(0, abs=1e-3)  # their mean is place 0


def test_extract_answers_in_words_on_stdout_and_counts_on_stderr(keel, model, place):
    found = keel("extract", model, "-o", "run", *SMALL)
    assert found.code == 0
    assert "The Assistant Axis" in found.out
    assert "keel calibrate run" in found.out
    assert "answering and recording" in found.err
    assert "36/36" in found.err
    assert "answering and recording" not in found.out


def test_extract_called_again_says_the_same_and_answers_nothing(keel, bare, model):
    before = contents(bare)
    again = keel("extract", model, "-o", bare, *SMALL, "--json")
    assert again.json["layer"] == library.open_run(bare).axis.layer
    assert again.err == ""
    assert contents(bare) == before


def test_extract_overwrites_when_told_and_deletes_only_what_is_the_run_s(keel, bare, model):
    (bare / "notes.txt").write_text("mine")
    assert keel("extract", model, "-o", bare, *SMALL, "--seed", "1", "--overwrite").code == 0
    assert library.open_run(bare).manifest.seed == 1
    assert (bare / "notes.txt").read_text() == "mine"


def test_extract_with_a_judge_maps_those_that_play(keel, model, place):
    some = ("--judge", "likelihood", "--min-count", "1")
    found = keel("extract", model, "-o", "run", *SMALL, *some, "--json").json
    run = library.open_run("run")
    assert run.axis.provenance["label"] == "playing"
    played = {id.split("/")[0] for id, j in run.judgements().items() if j.label == "fully"}
    assert set(found["roles"]) == played


def test_extract_reads_roles_and_questions_of_ones_own(keel, model, place):
    (place / "roles").mkdir()
    for name in ("ghost", "clerk", "nurse"):
        prompts = [f"You are a {name}, way {n}." for n in range(5)]
        (place / "roles" / f"{name}.json").write_text(
            json.dumps({"instruction": [{"pos": prompt} for prompt in prompts]})
        )
    (place / "roles" / "default.json").write_text('{"system_prompts": [""]}')
    (place / "questions.txt").write_text("Who are you?\nWhere to?\nWhat now?\nWhy?\n")
    own = ("--roles", "roles", "--questions", "questions.txt", "--role-count", "3")
    sizes = ("--question-count", "4", "--max-new-tokens", "4", *CPU)
    found = keel("extract", model, "-o", "run", *own, *sizes, "--json").json
    assert set(found["roles"]) == {"ghost", "clerk", "nurse"}
    asked = {r.prompt.conversation.messages[-1].content for r in library.open_run("run").rollouts()}
    assert asked == {"Who are you?", "Where to?", "What now?", "Why?"}


def test_a_dry_run_prices_and_neither_answers_nor_writes(keel, model, place):
    """4 × 4 + 5 × 4 = 36 answers of at most 6 tokens; each 4 layers × (32 × 2 + 4) + 8 bytes."""
    found = keel("extract", model, "-o", "run", *SMALL, "--dry-run", "--json")
    assert found.json == {
        "roles": 4,
        "traits": 0,
        "answers": 36,
        "new tokens, at most": 216,
        "batches": 1,
        "disk for activations, bytes": 36 * 280,
    }
    assert found.err == ""
    assert contents(place) == {}


def test_a_dry_run_prices_untrained_models_too(keel, model, place):
    """Each answers all 36 prompts of a run so small."""
    null = ("--null", "untrained", "--null-seeds", "2")
    found = keel("extract", model, "-o", "run", *SMALL, *null, "--dry-run", "--json").json
    assert found["untrained models"] == 2
    assert (found["their answers"], found["their new tokens, at most"]) == (72, 432)
    assert contents(place) == {}


def test_untrained_models_take_the_place_of_the_documented_range(keel, model, bare):
    """In JSON, on the terminal, in the report, and when the finished run is shown again."""
    documented = keel("extract", model, "-o", bare, *SMALL, "--json").json
    assert documented["auc_untrained"] == [0.49, 0.95]
    assert documented["untrained"] is None
    null = ("--null", "untrained", "--null-seeds", "2")
    measured = keel("extract", model, "-o", bare, *SMALL, *null, "--json").json
    aucs = [each["auc"] for each in measured["untrained"]["models"]]
    assert measured["auc_untrained"] == [min(aucs), max(aucs)]
    low, high = (f"{bound:.2f}" for bound in measured["auc_untrained"])
    shown = keel("extract", model, "-o", bare, *SMALL).out
    assert f"untrained {low} to {high}" in " ".join(shown.split())
    assert "2 models of this shape with random weights" in " ".join(shown.split())
    keel("report", bare)
    assert f"untrained {low} to {high}" in (bare / "report.html").read_text(encoding="utf-8")


def test_a_dry_run_in_words_leaves_a_begun_run_as_it_is(keel, model, bare, place):
    before = contents(place)
    found = keel("extract", model, "-o", bare, *SMALL, "--dry-run", "--overwrite")
    assert "answers" in found.out
    assert "36" in found.out
    assert contents(place) == before


def test_calibrate_tells_every_setting_and_the_one_chosen(keel, bare):
    heights = ("--band", "1:3", "--percentile", "50", "--percentile", "75", "--deviations", "1")
    found = keel("calibrate", bare, *heights, "--answers", "4", *CPU, "--json").json
    run = library.open_run(bare)
    assert found["chosen"] == run.floors.name
    named = {setting["name"]: setting for setting in found["settings"]}
    assert set(named) == {"layers_1:3-p50", "layers_1:3-p75", "layers_1:3-k1"}
    chosen = {str(floor.layer): floor.value for floor in run.floors}
    assert named[run.floors.name]["floors"] == chosen
    assert all(0 <= setting["firing_rate"] <= 1 for setting in named.values())


def test_calibrate_tries_deviations_alone_where_no_percentile_is_asked_for(keel, bare):
    found = keel("calibrate", bare, "--band", "1:3", "--deviations", "1", *CPU, "--json").json
    assert [setting["name"] for setting in found["settings"]] == ["layers_1:3-k1"]


def test_calibrate_shows_price_against_effect(keel, bare):
    found = keel("calibrate", bare, "--band", "1:3", "--answers", "4", *CPU)
    assert "Price against effect" in found.out
    chosen = library.open_run(bare).floors.name
    assert re.search(rf"→ {chosen} .* chosen", found.out)
    assert f"keel chat {bare} --capped" in found.out
    assert "pricing floors" in found.err


def test_floors_that_cost_no_answer_anything_have_a_price_without_an_upper_end(keel, bare):
    """JSON and trackers had an interval of 0, 0, 0 where the page says that nothing bounds it."""
    given = ("--band", "1:3", "--deviations", "40", "--answers", "4")
    (setting,) = keel("calibrate", bare, *given, *CPU, "--json").json["settings"]
    nothing = {"value": 0, "low": 0, "high": None}
    assert setting["price"] == nothing
    assert setting["effect"] == {"value": 0, "low": None, "high": None}
    assert keel("info", bare, "--json").json["floors"]["price"] == nothing
    numbers = pipeline.tracked_run(library.open_run(bare), bare / "report.html").numbers
    sent = {name for name, value in numbers.items() if math.isfinite(value)}
    assert "floors/price_nats" in sent
    assert not {"floors/price_nats/high", "floors/effect_gaps/low"} & sent


def test_judge_tells_how_many_play(keel, bare):
    found = keel("judge", bare, *CPU, "--json").json
    assert sum(found["labels"].values()) == 36
    assert found["labels"]["unjudged"] == 20
    assert len(found["deciles"]) == 11
    assert "map" not in found


def test_judge_that_maps_again_tells_the_new_map(keel, bare):
    """Once, its JSON kept the map to itself."""
    often = ("--remap", "--threshold", "0.5", "--min-count", "1")
    found = keel("judge", bare, *often, *CPU, "--json").json
    axis = library.open_run(bare).axis
    assert axis.provenance["judge"] == "likelihood-0.5"
    assert found["map"]["layer"] == axis.layer


def test_judge_says_it_in_words(keel, bare):
    found = keel("judge", bare, *CPU)
    assert "20 unjudged" in found.out
    assert "judging" in found.err


def test_drift_tells_every_turn(keel, held, transcript):
    (found,) = keel("drift", held, transcript, *CPU, "--json").json
    assert found["conversation_id"] == "talk"
    assert [turn["turn"] for turn in found["turns"]] == [0, 1]
    for turn in found["turns"]:
        tokens = turn["token_projections"]
        assert turn["projection"] == pytest.approx(sum(tokens) / len(tokens))
    (kept,) = library.open_run(held).drift_readings()
    assert kept.turns[1].gaps == pytest.approx(found["turns"][1]["gaps"])


def test_drift_is_drawn_a_line_a_turn(keel, held, transcript):
    found = keel("drift", held, transcript, *CPU)
    assert "I am who I was." in found.out
    assert f"keel report {held}" in found.out
    assert "reading conversations" in found.err


def test_a_replay_tells_both_arms(keel, held, transcript):
    short = ("--replay", "--max-new-tokens", "5")
    (found,) = keel("drift", held, transcript, *short, *CPU, "--json").json
    assert [turn["user"] for turn in found["turns"]] == ["Who are you?", "And the sea?"]
    assert found["setting"] == library.open_run(held).floors.name
    assert {"uncapped", "capped"} <= set(found["turns"][0])
    levels = [(turn["uncapped"]["gaps"], turn["capped"]["gaps"]) for turn in found["turns"]]
    assert found["lowered"] == sum(capped < uncapped for uncapped, capped in levels)


def test_a_replay_is_drawn_with_its_arms_side_by_side(keel, held, transcript):
    found = keel("drift", held, transcript, "--replay", "--max-new-tokens", "5", *CPU)
    assert "uncapped" in found.out
    assert "moved" in found.out


def test_report_says_where_the_page_is(keel, held):
    found = keel("report", held, "--json").json
    assert found == {
        "report": str(held / "report.html"),
        "size_bytes": (held / "report.html").stat().st_size,
    }


def test_report_prints_markdown_alone(keel, held):
    found = keel("report", held, "--markdown")
    assert found.out.startswith("# ")
    assert found.err == ""
    assert not (held / "report.html").exists()


def test_a_path_with_brackets_is_shown_as_it_is(keel, held, place):
    """Once, brackets were taken for markup, and long paths broken over two lines."""
    long = place / f"[b]{'x' * 80}"
    held.rename(long)
    assert str(long / "report.html") in keel("report", long).out
    assert f"{long}/axis" in keel("export", long, "-o", long / "axis").out


def test_demo_is_the_whole_tour_in_words(keel, model, place, monkeypatch):
    """On a tiny model, at a scale smaller than any that is offered."""
    smoke = pipeline.ExtractSettings.at_scale("smoke")
    tiny = replace(
        smoke,
        prompts=replace(smoke.prompts, roles=4, questions=4),
        sampling=replace(smoke.sampling, max_new_tokens=6),
    )
    monkeypatch.setattr(pipeline.ExtractSettings, "at_scale", lambda scale, seed=0: tiny)
    words = keel("demo", "--anew", "-o", "tour", "--model", model, *CPU)
    assert words.code == 0, words.err
    for part in (
        "The Assistant Axis",
        "Price against effect",
        "uncapped and capped",
        "keel chat tour",
    ):
        assert part in words.out
    assert library.open_run("tour").manifest.files["report.html"]
    assert f"keel demo --anew -o tour --model {model}" in library.open_run("tour").plan.command
    made = [Path("tour") / name for name in ("axis.safetensors", "calibration.json")]
    made += Path("tour/replays").iterdir()
    before = [path.stat().st_mtime_ns for path in made]
    again = keel("demo", "--anew", "-o", "tour", "--model", model, *CPU)
    assert again.code == 0, again.err
    # Once, a second demo priced all floors anew and answered its conversation again.
    assert [path.stat().st_mtime_ns for path in made] == before
