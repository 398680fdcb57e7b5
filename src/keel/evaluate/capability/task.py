"""A task of lm-eval's: its items, the requests it makes of a model, and its scores of answers.

lm-eval writes the prompts and scores; this keeps its items apart. Knows nothing of folders and
statistics.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from keel.errors import MissingExtraError, UsageError
from keel.evaluate.capability.isolation import isolated
from keel.evaluate.capability.loading import (
    PAPER_METRICS,
    EverySplit,
    load_leaves,
    registered_name,
)
from keel.evaluate.capability.sentence_rules import missing_rules
from keel.settings import CapabilitySettings
from keel.types import Conversation, Item, Message, Sampling, Suite

TASK_RUBRIC = "score"
_GENERATES = "generate_until"
_DEFAULT_NEW_TOKENS = 256
"""lm-eval's own, where a task names no length."""
_BEST = {"eq_bench": 100.0}
"""Highest score of an item, for tasks where it is not 1."""
_NOTES = {
    "eq_bench": (
        "lm-eval ends an answer at its first empty line, so that where a prompt asks for revised "
        "scores the first ones count",
    )
}


@dataclass(frozen=True)
class TaskSource:
    """Which of lm-eval's tasks, with which settings and items."""

    task: str
    """lm-eval's name of a task or of a group, or a YAML file that describes one."""
    settings: CapabilitySettings = field(default_factory=CapabilitySettings)
    data: Path | None = None
    """A file with the task's items; None takes them from the hub."""

    def open(self) -> CapabilityTask:
        """The task, loaded. Raises as `open_task`."""
        return open_task(self.task, self.settings, data=self.data)


def open_task(
    name: str, settings: CapabilitySettings = CapabilitySettings(), *, data: Path | None = None
) -> CapabilityTask:
    """A task by its name in lm-eval, or a YAML file that describes one.

    `data` is a file with its items, for where the hub cannot be reached.
    Raises an error of one line where there is no such task, or no data.
    """
    check_harness()
    known = registered_name(name)
    with isolated(settings.seed, known):
        leaves = load_leaves(name, data=data, allows_code=settings.allows_code, seed=settings.seed)
        for leaf in leaves.values():
            # Items as they are now: some tasks shuffle choices each time they are read.
            leaf.dataset = EverySplit(leaf.task_docs)
            leaf.set_config("process_docs", None)
        warnings = [*_NOTES.get(known, ()), *_shorten(known, leaves, settings.max_new_tokens)]
        docs = [
            doc for leaf in leaves.values() for _, doc in leaf.doc_iterator(limit=settings.limit)
        ]
        warnings += missing_rules(known, docs)
    source = "from the hub" if data is None else data.name
    return CapabilityTask(known, leaves, settings, source=source, warnings=warnings)


def check_harness() -> None:
    """Raise MissingExtraError where lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtraError(
            "capability tasks need lm-evaluation-harness: pip install 'keel-llm[evaluate]'"
        )


@dataclass(frozen=True)
class TaskRequest:
    """What lm-eval requests of the model for one item: a text to write, or several to score."""

    item_id: str
    leaf: str
    """Which of lm-eval's tasks it belongs to."""
    instances: tuple[Any, ...]
    """lm-eval's own, in its order."""

    @property
    def kind(self) -> str:
        """lm-eval's name for the kind of request: `generate_until`, `loglikelihood`, ..."""
        return str(self.instances[0].request_type)

    @property
    def prompt(self) -> str:
        """The text of the first instance, before what is generated or scored."""
        return str(self.instances[0].args[0])

    @property
    def is_written(self) -> bool:
        """Whether the model writes, rather than scores, texts."""
        return self.kind == _GENERATES

    @property
    def is_single_text(self) -> bool:
        """Whether the answer is one generated text."""
        return self.is_written and len(self.instances) == self.instances[0].repeats == 1

    @property
    def repeated(self) -> list[Any]:
        """The instances, each as often as lm-eval repeats it."""
        return [each for each in self.instances for _ in range(each.repeats)]

    @property
    def generation(self) -> dict[str, Any]:
        """lm-eval's arguments for generation."""
        from lm_eval.models.utils import normalize_gen_kwargs

        return dict(normalize_gen_kwargs(self.instances[0].args[1]))

    @property
    def max_new_tokens(self) -> int:
        """Longest answer; 0 where nothing is generated."""
        return int(self.generation["max_gen_toks"]) if self.is_written else 0

    @property
    def sampling(self) -> Sampling:
        """How the answer is sampled, and the strings that end it."""
        given = self.generation
        is_greedy = not given.get("do_sample", given.get("temperature", 0) > 0)
        return Sampling(
            self.max_new_tokens,
            0.0 if is_greedy else float(given.get("temperature", 1.0)),
            float(given.get("top_p", 1.0)),
            tuple(text for text in given.get("until", []) if text),
        )

    def cut(self, tokens: int) -> TaskRequest:
        """The same with an answer of at most so many tokens."""
        if tokens >= self.max_new_tokens:
            return self
        short = {**self.instances[0].args[1], "max_gen_toks": tokens}
        cut = (replace(each, arguments=(each.args[0], short)) for each in self.instances)
        return replace(self, instances=tuple(cut))

    def nested(self, responses: Iterator[Any]) -> list[list[Any]]:
        """The next responses as lm-eval takes them: a list per instance, an entry per repeat."""
        return [[next(responses) for _ in range(each.repeats)] for each in self.instances]

    def text_of(self, responses: list[list[Any]]) -> str:
        """Responses as the text that is kept: the generated one, or all of them as JSON."""
        return str(responses[0][0]) if self.is_single_text else json.dumps(responses)

    def fill(self, text: str) -> None:
        """Give lm-eval the responses that `text_of` wrote."""
        responses = [[text]] if self.is_single_text else json.loads(text)
        for instance, response in zip(self.instances, responses, strict=True):
            instance.resps = [tuple(r) if isinstance(r, list) else r for r in response]


class CapabilityTask:
    """One task, or a group of tasks that are scored alike."""

    def __init__(
        self,
        name: str,
        leaves: Mapping[str, Any],
        settings: CapabilitySettings,
        *,
        source: str = "",
        warnings: Sequence[str] = (),
    ) -> None:
        self.name, self.settings, self.source = name, settings, source
        self.metric, self.filter = _metric_of(name, leaves)
        self.warnings = tuple(warnings)
        """What has to be known of the scores, for display."""
        self.measure = self.metric if self.filter == "none" else f"{self.metric} ({self.filter})"
        """What is reported, in words."""
        self.key = f"{self.metric},{self.filter}"
        """The measure as lm-eval writes it; a key of `score`'s values."""
        self._leaves = leaves
        self._first = next(iter(leaves.values()))
        self.is_higher_better = bool(self._first.higher_is_better().get(self.metric, True))
        """Whether a higher score is a better one."""
        self.best = _BEST.get(name, 1.0)
        """The highest score of an item."""
        self.is_written = all(leaf.OUTPUT_TYPE == _GENERATES for leaf in leaves.values())
        """Whether all answers are texts that the model writes."""
        self.versions = ", ".join(sorted({str(leaf.VERSION) for leaf in leaves.values()}))
        """Of the task, or of each task of the group."""

    def aggregate(self, values: Sequence[Any]) -> float:
        """The task's one number from its items' values."""
        return float(self._first.aggregation()[self.metric](list(values)))

    def items(self) -> tuple[Item, ...]:
        """The items, in the order of the data; without what a chat template adds."""
        with isolated(self.settings.seed, self.name):
            return tuple(
                Item(f"{name}/{n}", Conversation((Message("user", str(leaf.doc_to_text(doc))),)))
                for name, leaf in self._leaves.items()
                for n, doc in leaf.doc_iterator(limit=self.settings.limit)
            )

    def suite(self) -> Suite:
        """The items as a suite whose answers are scores, not labels."""
        longest = max(request.max_new_tokens for request in self.requests())
        return Suite(
            name=self.name,
            items=self.items(),
            rubric=TASK_RUBRIC,
            measure=self.measure,
            counted=(),
            is_higher_better=self.is_higher_better,
            sampling=Sampling(max(1, longest), temperature=0.0, top_p=1.0),
        )

    def data_hash(self, items: Sequence[Item]) -> str:
        """SHA-256 of some items with all their fields, references too."""
        wanted = {item.id for item in items}
        digest = hashlib.sha256()
        with isolated(self.settings.seed, self.name):
            for name, leaf in self._leaves.items():
                for n, doc in leaf.doc_iterator(limit=self.settings.limit):
                    if f"{name}/{n}" in wanted:
                        digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def requests(
        self, system: str | None = None, chat: Callable[..., str] | None = None
    ) -> list[TaskRequest]:
        """What lm-eval requests, one per item in the order of `items`.

        `chat` is lm-eval's chat template, from messages to one text; without it `system` comes
        before each prompt.
        """
        with isolated(self.settings.seed, self.name):
            for leaf in self._leaves.values():
                leaf.build_all_requests(
                    limit=self.settings.limit,
                    system_instruction=system,
                    apply_chat_template=chat is not None,
                    chat_template=chat,
                )
            return list(self._grouped())

    def score(self, texts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """lm-eval's numbers for the answers to these items.

        By item in the order of `items`, and by metric and answer filter: `exact_match,none`.
        """
        with isolated(self.settings.seed, self.name):
            for name, leaf in self._leaves.items():
                leaf.build_all_requests(limit=self.settings.limit)
                # Filters run over all of a task's instances, and take none without a response.
                kept = [each for each in leaf.instances if f"{name}/{each.doc_id}" in texts]
                leaf._instances = kept
            requests = list(self._grouped())
            for request in requests:
                request.fill(texts[request.item_id])
            for leaf in self._leaves.values():
                leaf.apply_filters()
            scores: dict[str, dict[str, Any]] = {}
            for request in requests:
                leaf, first = self._leaves[request.leaf], request.instances[0]
                values = scores[request.item_id] = {}
                for name in first.filtered_resps:
                    results = [instance.filtered_resps[name] for instance in request.instances]
                    for metric, value in leaf.process_results(first.doc, results).items():
                        values[f"{metric},{name}"] = value
            return scores

    def _grouped(self) -> Iterator[TaskRequest]:
        """Each leaf's instances by item."""
        for name, leaf in self._leaves.items():
            by_doc: dict[int, list[Any]] = {}
            for instance in leaf.instances:
                by_doc.setdefault(instance.doc_id, []).append(instance)
            for number, instances in by_doc.items():
                ordered = sorted(instances, key=lambda instance: instance.idx)
                yield TaskRequest(f"{name}/{number}", name, tuple(ordered))


def _shorten(name: str, leaves: Mapping[str, Any], limit: int | None) -> list[str]:
    """Shorten the answers that tasks allow to the limit; returns the warning that follows."""
    longest = 0
    for leaf in leaves.values():
        given = leaf.config.generation_kwargs or {}
        allowed = int(given.get("max_gen_toks", _DEFAULT_NEW_TOKENS))
        if limit is not None and leaf.OUTPUT_TYPE == _GENERATES and limit < allowed:
            leaf.set_config("generation_kwargs", {"max_gen_toks": limit}, update=True)
            longest = max(longest, allowed)
    if not longest:
        return []
    return [
        f"answers were cut at {limit} tokens, where {name} allows {longest}: do not compare these "
        "scores with published ones"
    ]


def _metric_of(name: str, leaves: Mapping[str, Any]) -> tuple[str, str]:
    """Metric and answer filter to report: the paper's, else the task's first."""
    if name in PAPER_METRICS:
        return PAPER_METRICS[name]
    firsts = set()
    for leaf in leaves.values():
        filters = leaf.config.filter_list
        first_filter = str(filters[0]["name"]) if filters else "none"
        firsts.add((next(iter(leaf.aggregation())), first_filter))
    if len(firsts) > 1:
        raise UsageError(
            f"group {name!r} holds tasks that are scored in different ways; evaluate them one by "
            f"one: {', '.join(list(leaves)[:8])}"
        )
    return firsts.pop()
