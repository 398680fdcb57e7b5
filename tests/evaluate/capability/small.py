"""Mild items of our own, in the forms of the real ones, and lm-eval's own run over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from keel.evaluate import (
    Arm,
    ArmAnswers,
    SummarySettings,
    answer_items,
    cases_of,
    plan_answers,
    summarise_arms,
)
from keel.evaluate.capability import (
    CapabilitySettings,
    CapabilityTask,
    LocalTaskAnswerer,
    TaskAnswerer,
    TaskGrader,
    open_task,
    task_answerer,
    task_evaluation,
)
from keel.evaluate.capability.sentence_rules import rules_for
from keel.geometry import unit
from keel.types import Answered, EvalResult, Floor, Rubric, Verdict

SUMS = [
    {"question": f"Ann has {n} pears and is given {n + 1} more. How many has she?",
     "answer": f"She has {n} + {n + 1}.\n#### {2 * n + 1}"}
    for n in range(7)
]  # fmt: skip

RULES = [
    {"key": 1, "prompt": "Name a bird. Use no comma.",
     "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {"key": 2, "prompt": "Tell of the sea in at least 2 sentences, without commas.",
     "instruction_id_list": ["length_constraints:number_sentences", "punctuation:no_comma"],
     "kwargs": [{"relation": "at least", "num_sentences": 2}, {}]},
    {"key": 3, "prompt": "Write with the word harbour.",
     "instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["harbour"]}]},
]  # fmt: skip

MOODS = {
    str(n): {
        "prompt": f"Kit lost a kite ({n}). How does Kit feel, each from 0 to 10?\nSad: <score>\n"
        "Glad: <score>\nTired: <score>\nProud: <score>",
        "reference_answer_fullscale": {
            "emotion1": "Sad", "emotion2": "Glad", "emotion3": "Tired", "emotion4": "Proud",
            "emotion1_score": 8, "emotion2_score": 0, "emotion3_score": "4", "emotion4_score": 0,
        },
    }
    for n in range(3)
}  # fmt: skip

CHOICES = [
    {"asked": "Rain falls from the", "options": [" sky", " ground", " clock"], "right": 0},
    {"asked": "Bread is baked in the", "options": [" river", " oven"], "right": 1},
    {"asked": "A week has days in number", "options": [" five", " nine", " seven"], "right": 2},
    {"asked": "Snow is", "options": [" green", " white"], "right": 1},
    {"asked": "Fish live in the", "options": [" sea", " air"], "right": 0},
]

CHOICES_YAML = """task: mild_choices
dataset_path: json
output_type: multiple_choice
test_split: test
doc_to_text: "{{asked}}"
doc_to_target: "{{right}}"
doc_to_choice: "{{options}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""

DIRECTION = unit(torch.randn(32, generator=torch.Generator().manual_seed(3)))
PLAIN = Arm("none")
RUBRIC = Rubric("score", 1, "scored by the task", low=0, high=1)
CAPPED = Arm("capped", (Floor(1, DIRECTION, 4.0), Floor(2, DIRECTION, 4.0)))
UNREACHED = Arm("unreached", (Floor(1, DIRECTION, -1e6),))


def write_items(folder: Path) -> dict[str, Path]:
    """Files of items by task."""
    files = {
        "gsm8k": _lines(folder / "sums.jsonl", SUMS),
        "ifeval": _lines(folder / "rules.jsonl", RULES),
        "mild_choices": _lines(folder / "choices.jsonl", CHOICES),
        "eq_bench": folder / "moods.json",
    }
    files["eq_bench"].write_text(json.dumps(MOODS))
    (folder / "choices.yaml").write_text(CHOICES_YAML)
    return files


def opened(files: dict[str, Path], task: str, **settings: Any) -> CapabilityTask:
    """A task on our items, with short answers."""
    asked = CapabilitySettings(**{"max_new_tokens": 12, **settings})
    named = str(files[task].parent / "choices.yaml") if task == "mild_choices" else task
    return open_task(named, asked, data=files[task])


def answered(engine: Any, task: CapabilityTask, arm: Arm = PLAIN) -> ArmAnswers:
    """All answers under an arm, in the order of the items."""
    return arm_answers(task, task_answerer(task, engine), arm)


def arm_answers(task: CapabilityTask, answerer: TaskAnswerer, arm: Arm = PLAIN) -> ArmAnswers:
    """The same by any answerer."""
    found = batches(task, answerer, arm)
    by_id = {a.item_id: a for batch in found for a in batch.answers}
    firings = [batch.firing for batch in found if batch.firing is not None]
    firing = sum(firings[1:], firings[0]) if firings else None
    return ArmAnswers(arm.name, tuple(by_id[item.id] for item in task.items()), firing)


def batches(task: CapabilityTask, answerer: TaskAnswerer, arm: Arm = PLAIN) -> list[Any]:
    """All batches of a task under an arm."""
    evaluation = task_evaluation(task, answerer, (arm,))
    suite = evaluation.suite
    return list(answer_items(evaluation, arm, plan_answers(answerer, suite.items, suite.sampling)))


def requests(task: CapabilityTask, engine: Any, arm: Arm = PLAIN) -> list[Any]:
    """lm-eval's requests of a model of this process, in the order of the items."""
    return list(LocalTaskAnswerer(task, engine).requests(arm).values())


def planned(task: CapabilityTask, engine: Any) -> tuple[tuple[int, ...], ...]:
    """Indices of items that a model of this process answers together."""
    suite = task.suite()
    return plan_answers(LocalTaskAnswerer(task, engine), suite.items, suite.sampling).batches


def scored(task: CapabilityTask, answers: Sequence[Answered]) -> list[Verdict]:
    """lm-eval's scores as verdicts, in the order of the answers."""
    grader = TaskGrader(task)
    found = {v.case_id: v for v in grader.grade(cases_of(task.items(), {"": answers}), RUBRIC)}
    return [found[case.id] for case in cases_of(task.items(), {"": answers})]


def task_result(
    task: CapabilityTask,
    arms: Sequence[ArmAnswers],
    *,
    warnings: tuple[str, ...] = (),
) -> EvalResult:
    """The task's numbers as an evaluation has them."""
    suite, grader = task.suite(), TaskGrader(task)
    cases = cases_of(suite.items, {arm.name: arm.answers for arm in arms})
    verdicts = {v.case_id: v for v in grader.grade(cases, RUBRIC)}
    scoring = grader.scoring(suite, RUBRIC)
    settings = SummarySettings(warnings=(*warnings, *scoring.warnings))
    return summarise_arms(scoring, arms, verdicts, settings)


def texts(found: ArmAnswers) -> list[str]:
    """What was answered."""
    return [answer.text for answer in found.answers]


def as_lm_eval_does(
    model_folder: str,
    task: str,
    data: Path,
    *,
    cache: Path,
    batch_size: int = 1,
    max_new_tokens: int = 12,
    limit: int | None = None,
    folder: Path | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Responses and results of lm-eval's own `hf` model, evaluator and reader of data files.

    Nothing of Keel's has a part in it. `folder` holds the task's YAML where it is not lm-eval's.
    """
    import lm_eval
    import lm_eval.tasks
    from langdetect import DetectorFactory
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model_folder, device="cpu", dtype="float32", batch_size=batch_size)
    root = Path(lm_eval.tasks.__file__).parent / task if folder is None else folder
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=str(root))
    own = {
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "num_fewshot": 0,
        "dataset_kwargs": {
            "data_files": dict.fromkeys(("train", "test", "validation"), str(data)),
            "cache_dir": str(cache),
        },
    }
    with rules_for(task):
        loaded = manager.load([{"group": "reference", "task": [own]}])
    (one,) = loaded["tasks"].values()
    if one.OUTPUT_TYPE == "generate_until":
        one.set_config("generation_kwargs", {"max_gen_toks": max_new_tokens}, update=True)
    DetectorFactory.seed = 42  # as Keel seeds it: else it guesses anew each time
    asked = {"limit": limit, "bootstrap_iters": 0, "apply_chat_template": True}
    with rules_for(task):  # says where nltk's data lie, no more
        found = lm_eval.evaluate(lm, loaded, log_samples=True, **asked)
    assert found is not None
    samples = next(iter(found["samples"].values()))
    first = samples[0]["filter"]
    ordered = sorted((s for s in samples if s["filter"] == first), key=lambda s: s["doc_id"])
    return [sample["resps"] for sample in ordered], next(iter(found["results"].values()))


def responses(found: Sequence[Answered]) -> list[Any]:
    """The same of Keel's, as lists of plain numbers and texts."""
    return [json.loads(a.text) if a.text.startswith("[[") else [[a.text]] for a in found]


def _lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
