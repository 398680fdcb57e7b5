"""A task made ready: found, its items fixed, its answers shortened, its measure chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keel.errors import MissingExtraError, UsageError
from keel.evaluate.capability.finding import PAPER_METRICS, load_leaves, registered_name
from keel.evaluate.capability.local_data import EverySplit
from keel.evaluate.capability.quiet import quietly
from keel.evaluate.capability.sentence_rules import missing_rules, rules_for
from keel.evaluate.capability.tasks import CapabilityTask
from keel.settings import CapabilitySettings

_NOTES = {
    "eq_bench": (
        "lm-eval ends an answer at its first empty line, so that where a prompt asks for revised "
        "scores the first ones count",
    )
}


def open_task(
    name: str, settings: CapabilitySettings, *, data: Path | None = None
) -> CapabilityTask:
    """A task by its name in lm-eval, or a YAML file that describes one.

    `data` is a file with its items, for where the hub cannot be reached.
    Raises an error of one line where there is no such task, or no data.
    """
    check_harness()
    known = registered_name(name)
    with rules_for(known), quietly(settings.seed):
        leaves = load_leaves(name, data=data, allows_code=settings.allows_code, seed=settings.seed)
        for leaf in leaves.values():
            _fix_items(leaf)
        warnings = [*_NOTES.get(known, ()), *_shortened(known, leaves, settings.max_new_tokens)]
        warnings += missing_rules(known, _docs(leaves, settings.limit))
    metric, answer_filter = _metric_of(known, leaves)
    return CapabilityTask(
        known, leaves, settings, metric=metric, answer_filter=answer_filter, warnings=warnings
    )


def check_harness() -> None:
    """Raise MissingExtraError where lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtraError(
            "capability tasks need lm-evaluation-harness: pip install 'keel-llm[evaluate]'"
        )


def _fix_items(leaf: Any) -> None:
    """Take the items as they are now: some tasks shuffle choices each time they are asked."""
    leaf.dataset = EverySplit(leaf.task_docs)
    leaf.set_config("process_docs", None)


def _docs(leaves: Mapping[str, Any], limit: int | None) -> Iterator[Any]:
    for leaf in leaves.values():
        for _, doc in leaf.doc_iterator(limit=limit):
            yield doc


def _shortened(name: str, leaves: Mapping[str, Any], wanted: int | None) -> list[str]:
    """Shorten the answers that tasks allow to what is wanted; what to say of it."""
    longest = 0
    for leaf in leaves.values():
        given = leaf.config.generation_kwargs or {}
        allowed = int(given.get("max_gen_toks", _DEFAULT_NEW_TOKENS))
        if wanted is not None and leaf.OUTPUT_TYPE == "generate_until" and wanted < allowed:
            leaf.set_config("generation_kwargs", {"max_gen_toks": wanted}, update=True)
            longest = max(longest, allowed)
    if not longest:
        return []
    return [
        f"answers were cut at {wanted} tokens, where {name} allows {longest}: do not compare these "
        "scores with published ones"
    ]


_DEFAULT_NEW_TOKENS = 256
"""lm-eval's own, where a task names no length."""


def _metric_of(name: str, leaves: Mapping[str, Any]) -> tuple[str, str]:
    """Metric and answer filter to report: the paper's, else the task's first."""
    if name in PAPER_METRICS:
        return PAPER_METRICS[name]
    firsts = {(next(iter(leaf.aggregation())), _first_filter(leaf)) for leaf in leaves.values()}
    if len(firsts) > 1:
        raise UsageError(
            f"group {name!r} holds tasks that are scored in different ways; ask for them one by "
            f"one: {', '.join(list(leaves)[:8])}"
        )
    return firsts.pop()


def _first_filter(leaf: Any) -> str:
    listed = leaf.config.filter_list
    return str(listed[0]["name"]) if listed else "none"
