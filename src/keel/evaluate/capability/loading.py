"""Loads a task of lm-eval's by name, with the hub's data or the user's.

lm-eval has some fourteen thousand tasks and reads a file for each when all are listed: the folder
called like the task is read first.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keel.errors import (
    CorruptArtifactError,
    KeelError,
    MissingArtifactError,
    MissingExtraError,
    UsageError,
)

Row = dict[str, Any]

PAPER_METRICS = {
    "ifeval": ("inst_level_strict_acc", "none"),
    "gsm8k": ("exact_match", "flexible-extract"),
    "mmlu_pro": ("exact_match", "custom-extract"),
    "eq_bench": ("eqbench", "none"),
}
"""The paper's four tasks, with the metric and the answer filter that it reports."""


_NEEDED = {
    "gsm8k": ("question", "answer"),
    "ifeval": ("key", "prompt", "instruction_id_list", "kwargs"),
    "mmlu_pro": ("question", "options", "answer", "category"),
    "eq_bench": ("prompt", "reference_answer_fullscale"),
}


def load_leaves(name: str, *, data: Path | None, allows_code: bool, seed: int) -> dict[str, Any]:
    """lm-eval's tasks by name: one, or all of a group; without examples in the prompt.

    Raises UsageError for a name that lm-eval lacks, with near ones; MissingArtifactError where
    neither the hub nor a file gives the data.
    """
    rows = None if data is None else read_items(data, registered_name(name))
    manager = _manager_with(name)
    names = list(_leaf_names(manager, registered_name(name)))
    for leaf_name in names:
        _check_allowed(manager.task_index[leaf_name].cfg or {}, leaf_name, allows_code)
    with _explained(name, data):
        if rows is None:
            leaves = {leaf: manager.load([leaf])["tasks"][leaf] for leaf in names}
        else:
            leaves = _load_with(manager, names, rows)
        if not leaves:
            raise UsageError(f"{data} holds no items of {name}; is it another task's file?")
    for leaf in leaves.values():
        if getattr(leaf, "MULTIMODAL", False):
            raise UsageError(f"task {name!r} shows pictures or sounds, and Keel's models read text")
        leaf.set_config("num_fewshot", 0)
        leaf.set_fewshot_seed(seed)
    return leaves


class UnknownTaskError(UsageError):
    """No task of lm-eval has that name."""


def registered_name(name: str) -> str:
    """The name under which lm-eval knows a task; of a YAML file it is written inside."""
    if not name.endswith((".yaml", ".yml")):
        return name
    if not Path(name).is_file():
        raise MissingArtifactError(f"{name} is not there; give lm-eval's name of a task, or a file")
    named = re.search(r"^(?:task|group):\s*['\"]?([\w.-]+)", Path(name).read_text("utf-8"), re.M)
    if named is None:
        raise UsageError(f"{name} names no task; expected a line such as 'task: my_task'")
    return named[1]


def _manager_with(name: str) -> Any:
    """lm-eval's index of tasks: as small a part of it as holds the name."""
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    registered = registered_name(name)
    if registered != name:
        near = [Path(name).parent]
    else:
        root = Path(lm_eval.tasks.__file__).parent
        near = [root / name] if name.isidentifier() and (root / name).is_dir() else []
    if near:
        small = TaskManager(include_defaults=False, include_path=[str(folder) for folder in near])
        with suppress(KeyError, UsageError):
            if all(leaf in small.task_index for leaf in _leaf_names(small, registered)):
                return small
    full = TaskManager()
    if registered not in full.all_tasks:
        raise UnknownTaskError(_unknown(name, full.all_tasks))
    return full


def _unknown(name: str, known: list[str]) -> str:
    """What is wrong with a name that lm-eval does not know, with the nearest that it does."""
    near = difflib.get_close_matches(name, known, n=5)
    hint = f"near names: {', '.join(near)}" if near else "list them with: lm-eval ls tasks"
    return f"lm-eval has no task {name!r}; {hint}"


def _leaf_names(manager: Any, name: str) -> Iterator[str]:
    """The task itself, or those of a group and of the groups in it."""
    entry = manager.task_index[name]
    if entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    elif entry.kind.name != "GROUP":
        yield name
    else:
        for child in entry.cfg["task"]:
            if not isinstance(child, str):
                raise UsageError(
                    f"group {name!r} of lm-eval changes the tasks that it holds; name one of "
                    "its tasks instead"
                )
            yield from _leaf_names(manager, child)


def _check_allowed(config: Mapping[str, Any], name: str, allows_code: bool) -> None:
    if config.get("unsafe_code") and not allows_code:
        raise UsageError(
            f"task {name!r} runs Python code that the model writes, on this machine; where that "
            "is safe, say so with --allow-code"
        )


def _load_with(manager: Any, names: list[str], rows: list[Row]) -> dict[str, Any]:
    """The tasks on items of the user's, without those that find none of theirs among them."""
    from datasets import Dataset

    # The first row's fields are all that `from_list` reads.
    fields = dict.fromkeys(field for row in rows for field in row)
    dataset = EverySplit(
        Dataset.from_list([{field: row.get(field) for field in fields} for row in rows])
    )
    leaves = {}
    for name in names:
        spec = {"task": name, "custom_dataset": lambda **_: dataset}
        # lm-eval looks at the first item, and a file may have none of a subject.
        with suppress(IndexError):
            leaves[name] = manager.load([{"group": "local", "task": [spec]}])["tasks"][name]
    return leaves


@contextmanager
def _explained(name: str, data: Path | None) -> Iterator[None]:
    """Turns whatever goes wrong while a task is loaded into one line with a remedy."""
    try:
        yield
    except KeelError:
        raise
    except ImportError as error:
        message = f"task {name!r} needs a package that is not installed: {error}"
        raise MissingExtraError(message) from error
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if data is not None:
            raise UsageError(
                f"task {name!r} cannot be made of {data} ({said}); the file needs the fields of "
                "the task's own data"
            ) from error
        if isinstance(error, OSError):
            raise MissingArtifactError(
                f"the data of task {name!r} cannot be had from the hub ({said}); give a file of "
                f"your own: --data {name}=FILE"
            ) from error
        raise UsageError(f"lm-eval cannot load task {name!r} ({said})") from error


def read_items(path: Path, task: str) -> list[Row]:
    """The file's items as the task wants them.

    JSON lines, a JSON list, a JSON object of items by id (as EQ-Bench publishes its own), or
    parquet (as the hub does). Raises an error that names the file and what it lacks.
    """
    rows = _read(path)
    if not rows:
        raise UsageError(f"{path} holds no items; expected at least one")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UsageError(f"item {number} of {path} is {str(row)[:40]!r}, expected an object")
        missing = [name for name in _NEEDED.get(task, ()) if name not in row]
        if missing:
            raise UsageError(
                f"item {number} of {path} lacks {', '.join(missing)}, which {task} needs; it has "
                f"{', '.join(sorted(row)) or 'nothing'}"
            )
    if task != "eq_bench":
        return rows
    key = "reference_answer_fullscale"
    # lm-eval reads the reference from a text; the published file has an object.
    return [
        {"prompt": row["prompt"], key: row[key] if isinstance(row[key], str) else repr(row[key])}
        for row in rows
    ]


class EverySplit(dict[str, Any]):
    """A data set under every name: tasks call the split that they are tested on by many names."""

    def __init__(self, dataset: Any) -> None:
        super().__init__()
        self._dataset = dataset

    def __missing__(self, split: str) -> Any:
        return self._dataset


def _read(path: Path) -> list[Any]:
    if not path.is_file():
        raise MissingArtifactError(f"{path} is not there; give the file of items: --data TASK=FILE")
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return list(parquet.read_table(path).to_pylist())
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            value = json.loads(text)
            if not isinstance(value, dict | list):
                raise ValueError(f"it holds one {type(value).__name__}")
            return list(value.values()) if isinstance(value, dict) else value
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(
            f"{path} cannot be read as items: {str(error).splitlines()[0]}; expected .jsonl with "
            "an object per line, .json with a list or an object of objects, or .parquet"
        ) from error
