"""A run folder until it is finished: begun once, filled batch by batch, judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from keel.errors import (
    CorruptArtifactError,
    MissingArtifactError,
    NotFiniteError,
    StaleArtifactError,
    StorageError,
    UsageError,
)
from keel.store import RunFolder, RunPlan
from keel.types import (
    ActivationBatch,
    Conversation,
    Judgement,
    Message,
    ModelIdentity,
    Prompt,
    Rollout,
)

# --- begin -----------------------------------------------------------------------------------


def test_beginning_again_with_the_same_inputs_goes_on_with_the_first_plan_of_batches(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    folder.begin(plan, prompts)
    other_memory = replace(plan, batches=((0, 1, 2, 3, 4, 5),), command="")
    assert folder.begin(other_memory, prompts).batches == plan.batches


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 8}, "seed 7 → 8"),
        (
            {"settings": {"scale": "smoke", "sampling": {"temperature": 1.0, "top_p": 0.9}}},
            r"roles \[1, 2\] → unset; sampling.temperature 0.7 → 1.0",
        ),
        ({"identity": ModelIdentity("tiny", 4, 6, weights_hash="bb")}, "model: weights_hash aa"),
        ({"identity": ModelIdentity("huge", 9, 6)}, "model: 4 layers × 6"),
        (
            {"identity": ModelIdentity("tiny", 4, 6, "r1", "aa", dtype="bfloat16")},
            "dtype float32 →",
        ),
        ({"identity": ModelIdentity("tiny", 4, 6, "r2", dtype="float32")}, "revision r1 → r2"),
    ],
)
def test_other_inputs_are_refused_saying_what_differs(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt], change: dict[str, object], words: str
):
    folder.begin(plan, prompts)
    with pytest.raises(StaleArtifactError, match=words) as raised:
        folder.begin(replace(plan, **change), prompts)
    assert "choose another folder with -o, or start it over with --overwrite" in str(raised.value)


def test_a_run_begun_by_another_clock_is_not_gone_on_with(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    """Runs of before Keel stopped the clock have days of their own; once, two were mixed."""
    folder.begin(replace(plan, template={"kind": "chat"}), prompts)
    stopped = replace(plan, template={"kind": "chat", "clock": "stands at 26 Jul 2024"})
    with pytest.raises(StaleArtifactError, match="template.clock unset → stands at"):
        folder.begin(stopped, prompts)


def test_other_words_about_the_same_template_are_no_other_inputs(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    folder.begin(replace(plan, template={"always put first": "[INST]"}), prompts)
    assert folder.begin(replace(plan, template={"kind": "chat"}), prompts)


def test_one_other_word_in_a_prompt_is_other_inputs(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    folder.begin(plan, prompts)
    changed = [
        *prompts[:-1],
        replace(prompts[-1], conversation=Conversation((Message("user", "Who are  you?"),))),
    ]
    with pytest.raises(StaleArtifactError, match=r"prompts \(6 → 6, or other words\)"):
        folder.begin(plan, changed)


def test_the_same_weights_under_another_name_are_the_same_model(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    folder.begin(plan, prompts)
    moved = replace(plan, identity=replace(plan.identity, model_id="/copy/of/tiny", revision=""))
    assert folder.begin(moved, prompts) == replace(
        plan, settings={**plan.settings, "roles": [1, 2]}
    )


@pytest.mark.parametrize(
    "batches", [((0, 1, 2, 3, 4),), ((0, 1, 2), (2, 3, 4, 5)), ((*range(7),),)]
)
def test_batches_that_do_not_hold_every_prompt_once_are_refused(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt], batches: tuple[tuple[int, ...], ...]
):
    with pytest.raises(UsageError, match="each of the 6 prompts once"):
        folder.begin(replace(plan, batches=batches), prompts)
    assert not folder.is_begun


def test_a_damaged_plan_is_not_taken_for_a_new_folder(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    folder.begin(plan, prompts)
    path = folder.path / "plan.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(CorruptArtifactError, match=r"plan\.json is not"):
        folder.begin(plan, prompts)


# --- batches ---------------------------------------------------------------------------------


def test_rollouts_and_activations_come_back_in_the_order_of_batches(
    filled: RunFolder, plan: RunPlan, rollouts: list[Rollout], activations: ActivationBatch
):
    order = [place for batch in plan.batches for place in batch]
    assert order != sorted(order)
    assert filled.committed() == {0, 1, 2}
    assert list(filled.read().rollouts()) == [rollouts[place] for place in order]
    batches = list(filled.read().activation_batches())
    assert [batch.rollout_ids for batch in batches] == [
        tuple(rollouts[place].prompt.id for place in batch) for batch in plan.batches
    ]
    means = torch.cat([batch.means_BLD for batch in batches])
    assert torch.equal(means, activations.means_BLD[order])
    assert torch.equal(torch.cat([b.norms_BL for b in batches]), activations.norms_BL[order])


def test_more_than_a_hundred_thousand_batches_keep_their_order(
    folder: RunFolder, rollouts: list[Rollout]
):
    for number in (100_000, 99_999, 2):
        folder.commit_batch(number, [rollouts[number % 5]], None)
    assert folder.committed() == {2, 99_999, 100_000}
    # 2 % 5, 99_999 % 5, 100_000 % 5
    assert list(folder.read().rollouts()) == [rollouts[2], rollouts[4], rollouts[0]]


def test_a_batch_without_its_rollouts_is_not_counted(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    folder.commit_batch(0, rollouts, activations)
    (folder.path / "rollouts/batch-00000.jsonl").unlink()
    (folder.path / "rollouts/.batch-00001.jsonl.0a0a0a0a.tmp").write_text("{")
    assert folder.committed() == set()
    assert list(folder.read().activation_batches()) == []


def test_activations_are_on_disk_before_the_rollouts_that_commit_them(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    (folder.path / "rollouts").mkdir(parents=True)
    (folder.path / "rollouts/batch-00000.jsonl").mkdir()  # the second write cannot succeed
    with pytest.raises(StorageError):
        folder.commit_batch(0, rollouts, activations)
    assert (folder.path / "activations/batch-00000.safetensors").exists()


def test_activations_of_an_interrupted_attempt_do_not_join_a_batch_that_has_none(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    folder.commit_batch(0, rollouts, activations)
    folder.commit_batch(0, [replace(rollout, token_ids=()) for rollout in rollouts], None)
    assert list(folder.read().activation_batches()) == []


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_lost_activations_are_not_passed_over_and_can_be_made_again(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch, damage: Callable
):
    folder.commit_batch(3, rollouts, activations)
    damage(folder.path / "activations/batch-00003.safetensors")
    remedy = r"delete .*rollouts/batch-00003\.jsonl too, and run the extraction again"
    with pytest.raises((MissingArtifactError, CorruptArtifactError), match=remedy):
        list(folder.read().activation_batches())
    (folder.path / "rollouts/batch-00003.jsonl").unlink()
    assert folder.committed() == set()


def test_a_batch_with_nan_is_not_committed(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    activations.means_BLD[1, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="rollout pirate/p0/q1 "):
        folder.commit_batch(0, rollouts, activations)
    assert folder.committed() == set()


def test_activations_of_strangers_are_refused(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    with pytest.raises(UsageError, match=r"activations of \['long'\] belong to no rollout"):
        folder.commit_batch(0, rollouts[:5], activations)


def test_a_damaged_rollout_names_its_file(folder: RunFolder, rollouts: list[Rollout]):
    folder.commit_batch(0, rollouts, None)
    path = folder.path / "rollouts/batch-00000.jsonl"
    path.write_text(path.read_text().replace('"finish"', '"finsh"', 1))
    with pytest.raises(CorruptArtifactError, match=r"batch-00000\.jsonl.*finish"):
        list(folder.read().rollouts())
    path.write_text(path.read_text()[:-5])
    with pytest.raises(CorruptArtifactError, match=r"line 6 is cut off"):
        list(open_lines(folder))


def open_lines(folder: RunFolder) -> list[object]:
    from keel.store.files import read_jsonl

    return list(read_jsonl(folder.path / "rollouts/batch-00000.jsonl"))


def test_a_disk_that_fills_up_keeps_finished_batches_and_goes_on_when_there_is_room(
    small_disk: Path, rollouts: list[Rollout], activations: ActivationBatch
):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * 150_000)
    folder = RunFolder(small_disk / "run")
    with pytest.raises(StorageError, match="free some space and run the same command again"):
        for number in range(1000):
            folder.commit_batch(number, rollouts, activations)
    done = len(folder.committed())
    assert 0 < done < 1000
    assert len(list(folder.read().rollouts())) == 6 * done
    assert len(list(folder.read().activation_batches())) == done
    ballast.unlink()
    folder.commit_batch(done, rollouts, activations)
    assert folder.committed() == set(range(done + 1))


# --- judgements ------------------------------------------------------------------------------


def test_judgements_are_added_and_the_last_one_holds(folder: RunFolder):
    folder.save_judgements("local", [Judgement("a", "fully", 3.0), Judgement("b", "none", 0)])
    folder.save_judgements("local", [Judgement("a", "unjudged", None, "unparsed")])
    expected = {"a": Judgement("a", "unjudged", None, "unparsed"), "b": Judgement("b", "none", 0.0)}
    assert folder.read().judgements() == expected
    assert folder.read().judgements("local") == expected


def test_a_judgement_torn_by_a_kill_is_not_counted(folder: RunFolder):
    folder.save_judgements("local", [Judgement("a", "fully", 3.0), Judgement("b", "none", 0)])
    path = folder.path / "judgements/local.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert set(folder.read().judgements()) == {"a"}
    folder.save_judgements("local", [Judgement("c", "none", 0)])
    assert set(folder.read().judgements()) == {"a", "c"}


def test_judges_whose_names_are_no_file_names_are_kept_apart(folder: RunFolder):
    folder.save_judgements("openai/gpt", [Judgement("a", "fully")])
    folder.save_judgements("openai:gpt", [Judgement("a", "none")])
    assert folder.read().judgements("openai/gpt")["a"].label == "fully"
    assert folder.read().judgements("openai:gpt")["a"].label == "none"
    assert folder.read().judgements("other") == {}
    with pytest.raises(UsageError, match="has 2 judges .*name one"):
        folder.read().judgements()


def test_no_judge_is_no_judgement(folder: RunFolder):
    assert folder.read().judgements() == {}
