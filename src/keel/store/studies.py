"""Writes one drift study of a run: its conversations, turn by turn and arm by arm, and the result.

studies/NAME/settings.json              settings, model, seed, and the groups that go on together
             conversations.jsonl        who talks about what, with the users' scripts
             messages/ARM/g003-t05.jsonl   what an auditor wrote
             turns/ARM/arm.json         what the arm does, its fingerprint
             turns/ARM/g003-t05.jsonl   one turn of a group's conversations, whole or not there
             turns/ARM/g003-t05.safetensors   mean activations of its answers, a row for each
             alone/ARM/g003-t05.jsonl   the same turns without what was said before them
             harm/ARM/g003.jsonl        answers to requests after the last turn
             harm/verdicts-JUDGE.jsonl  what a judge said of them
             embeddings.safetensors     users' messages as an endpoint embedded them
             result.json                last
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jaxtyping import Float

from keel.arrays import Tensor, torch
from keel.errors import StaleArtifactError, UsageError
from keel.store import layout
from keel.store.artefacts import FORMAT, check_format, read_artefact, write_artefact
from keel.store.batches import append_journal, read_journal
from keel.store.evaluations import ArmRecord
from keel.store.files import jsonl, read_json, read_jsonl, reading, write_json, write_jsonl
from keel.store.folder import RunFolder
from keel.store.provenance import EvaluationPlan, plan_differences, refuse_changed
from keel.store.records import from_record, to_record
from keel.types import (
    AuditedMessage,
    DriftStudy,
    HarmBranch,
    PlannedConversation,
    StudiedConversation,
    StudiedTurn,
    TurnAlone,
    Verdict,
)

T = TypeVar("T")

_SETTINGS, _CONVERSATIONS = "settings.json", "conversations.jsonl"
_TURNS, _ALONE, _MESSAGES, _HARM = "turns", "alone", "messages", "harm"
_EMBEDDINGS = "embeddings.safetensors"
_MEANS, _EMBEDDED = "means of a study's turns", "embeddings of a study's messages"


@dataclass(frozen=True)
class AnsweredTurns:
    """One turn of a group's conversations."""

    turns: tuple[StudiedTurn, ...]
    layer: int
    means_BD: Float[Tensor, "turn hidden"]
    """Mean activation of each answer's content tokens at that layer; NaN where it has none."""


class StudyFolder:
    """Writes and reads one study of a run. Hold the run's lock while writing."""

    def __init__(self, run: RunFolder, name: str) -> None:
        if layout.plain_name(name) != name or not name:
            raise UsageError(
                f"a study cannot be called {name!r}; use letters, digits, dots and dashes"
            )
        self.run, self.name = run, name
        self.inside = f"{layout.STUDIES}/{name}"
        """Its folder's path inside the run folder."""
        self.path = run.path / self.inside

    @property
    def is_begun(self) -> bool:
        """Whether settings, which are written after the conversations, are there."""
        return (self.path / _SETTINGS).exists()

    def begin(
        self, plan: EvaluationPlan, conversations: Sequence[PlannedConversation]
    ) -> EvaluationPlan:
        """Write plan and conversations, or go on with those there; returns the plan that holds.

        Raises StaleArtifactError, saying what differs, when it was begun with other inputs.
        """
        digest = _hash_of(conversations)
        if not self.is_begun:
            write_jsonl(self.path / _CONVERSATIONS, map(to_record, conversations))
            facts = {"format": FORMAT, "kind": "study", "conversations_sha256": digest}
            write_json(self.path / _SETTINGS, {**facts, "plan": to_record(plan)})
            return plan
        refuse_changed(
            f"study {self.name!r} in {self.run.path}",
            self.differences(plan, conversations),
            "choose another name with --name, or start it over with --overwrite",
        )
        return self._settings()[0]

    def differences(
        self, plan: EvaluationPlan, conversations: Sequence[PlannedConversation]
    ) -> list[str]:
        """How plan and conversations differ from those written; nothing where it is not begun."""
        if not self.is_begun:
            return []
        written, digest = self._settings()
        changed = plan_differences(written, plan)
        if digest != _hash_of(conversations) and not changed:
            changed.append(f"conversations ({len(conversations)}, of other people or words)")
        return changed

    def clear(self) -> None:
        """Delete all of the study."""
        self.reopen()
        # The settings last: a kill in between leaves a study that can be cleared again.
        for name in (_TURNS, _ALONE, _MESSAGES, _HARM):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (_EMBEDDINGS, _CONVERSATIONS, _SETTINGS):
            (self.path / name).unlink(missing_ok=True)

    def conversations(self) -> tuple[PlannedConversation, ...]:
        """Who talks about what, in the order of the plan."""
        return tuple(_lines(self.path / _CONVERSATIONS, PlannedConversation))

    def arms(self) -> tuple[ArmRecord, ...]:
        """Arms begun so far, in that order."""
        arms = []
        for path in (self.path / _TURNS).glob("*/arm.json"):
            with reading(path, "an ArmRecord"):
                arms.append(from_record(ArmRecord, read_json(path)))
        return tuple(sorted(arms, key=lambda arm: arm.index))

    def begin_arm(self, arm: ArmRecord) -> None:
        """Write down what an arm does. Raises StaleArtifactError when it did something else."""
        for known in self.arms():
            if known.name == arm.name:
                if known.fingerprint == arm.fingerprint:
                    return
                raise StaleArtifactError(
                    f"arm {arm.name!r} of {self.path} was answered with other interventions "
                    f"({known.note or 'none'}) than it would have now ({arm.note or 'none'}); "
                    "choose another name with --name, or start it over with --overwrite"
                )
        write_json(self._folder(_TURNS, arm.name) / "arm.json", to_record(arm))

    def turns(self, arm: str, group: int, turn: int) -> tuple[StudiedTurn, ...] | None:
        """One turn of a group's conversations; None where it was not committed."""
        path = _unit(self._folder(_TURNS, arm), group, turn)
        return tuple(_lines(path, StudiedTurn)) if path.exists() else None

    def commit_turns(self, arm: str, group: int, turn: int, answered: AnsweredTurns) -> None:
        """Keep one turn of a group's conversations: whole, or not counted."""
        path = _unit(self._folder(_TURNS, arm), group, turn)
        facts = {"layer": answered.layer}
        means = {"means": answered.means_BD}
        write_artefact(path.with_suffix(".safetensors"), _MEANS, means, facts)
        write_jsonl(path, map(to_record, answered.turns))

    def means(self, arm: str, group: int, turn: int) -> Float[Tensor, "turn hidden"] | None:
        """Mean activations of a turn's answers, NaN where one is empty.

        None where an earlier version of Keel kept none.
        """
        path = _unit(self._folder(_TURNS, arm), group, turn).with_suffix(".safetensors")
        return read_artefact(path, _MEANS)[1]["means"] if path.exists() else None

    def messages(self, arm: str, group: int, turn: int) -> dict[str, AuditedMessage]:
        """What an auditor wrote for a turn so far, by conversation. A torn line does not count."""
        path = _unit(self._folder(_MESSAGES, arm), group, turn)
        return {each.conversation: each for each in read_journal(path, AuditedMessage)}

    def append_messages(
        self, arm: str, group: int, turn: int, messages: Sequence[AuditedMessage]
    ) -> None:
        """Add what an auditor wrote: it is paid for, and never asked for again."""
        append_journal(_unit(self._folder(_MESSAGES, arm), group, turn), messages)

    def settle_messages(self, arm: str, group: int, turn: int) -> None:
        """Put a turn's messages, all of which are there, in the order of conversations."""
        path = _unit(self._folder(_MESSAGES, arm), group, turn)
        self._settle(path, AuditedMessage, lambda message: message.conversation)

    def alone(self, arm: str, group: int, turn: int) -> tuple[TurnAlone, ...] | None:
        """The turns of a group without their history; None where they were not committed."""
        path = _unit(self._folder(_ALONE, arm), group, turn)
        return tuple(_lines(path, TurnAlone)) if path.exists() else None

    def commit_alone(self, arm: str, group: int, turn: int, turns: Sequence[TurnAlone]) -> None:
        """Keep a group's turns without their history: whole, or not counted."""
        write_jsonl(_unit(self._folder(_ALONE, arm), group, turn), map(to_record, turns))

    def branches(self, arm: str, group: int) -> tuple[HarmBranch, ...] | None:
        """Answers to the requests after a group's last turn; None where they were not committed."""
        path = self._folder(_HARM, arm) / f"g{group:03d}.jsonl"
        return tuple(_lines(path, HarmBranch)) if path.exists() else None

    def commit_branches(self, arm: str, group: int, branches: Sequence[HarmBranch]) -> None:
        """Keep a group's answers to requests: whole, or not counted."""
        write_jsonl(self._folder(_HARM, arm) / f"g{group:03d}.jsonl", map(to_record, branches))

    def verdicts(self, judge: str) -> dict[str, Verdict]:
        """What a judge said of answers to requests, by case; the latest of each."""
        return {v.case_id: v for v in read_journal(self._verdicts(judge), Verdict)}

    def append_verdicts(self, judge: str, verdicts: Sequence[Verdict]) -> None:
        """Add what a judge said."""
        append_journal(self._verdicts(judge), verdicts)

    def settle_verdicts(self, judge: str) -> None:
        """Put a judge's verdicts, all of which are there, in the order of cases."""
        self._settle(self._verdicts(judge), Verdict, lambda verdict: verdict.case_id)

    def transcripts(self, arm: str) -> Iterator[StudiedConversation]:
        """An arm's conversations, in the order of the plan, with the turns answered so far."""
        turns: dict[str, list[StudiedTurn]] = {}
        for path in layout.files_ending(self._folder(_TURNS, arm), ".jsonl"):
            for turn in _lines(path, StudiedTurn):
                turns.setdefault(turn.conversation, []).append(turn)
        for planned in self.conversations():
            if planned.id in turns:
                ordered = sorted(turns[planned.id], key=lambda turn: turn.turn)
                yield StudiedConversation(arm, planned, tuple(ordered))

    def embeddings(self, embedder: str) -> dict[str, Float[Tensor, " dimension"]]:
        """Texts as this embedder gave them so far; nothing where another one did."""
        path = self.path / _EMBEDDINGS
        if not path.exists():
            return {}
        facts, tensors = read_artefact(path, _EMBEDDED)
        rows_ND = tensors["embeddings"]
        is_own = facts["embedder"] == embedder
        return dict(zip(facts["texts"], rows_ND, strict=True)) if is_own else {}

    def save_embeddings(self, embedder: str, by_text: Mapping[str, Tensor]) -> None:
        """Keep what an embedder gave."""
        texts = sorted(by_text)
        facts = {"embedder": embedder, "texts": texts}
        tensors = {"embeddings": torch.stack([by_text[text] for text in texts])}
        write_artefact(self.path / _EMBEDDINGS, _EMBEDDED, tensors, facts)

    def reopen(self) -> None:
        """Delete the result, which must not stay while the turns under it change."""
        with self.run.lock():
            if (self.path / layout.RESULT).exists():
                self.run.unlist_below(self.inside)
                (self.path / layout.RESULT).unlink()

    def save_result(self, study: DriftStudy) -> None:
        """Keep the result, and list all files of the study in the run's manifest."""
        with self.run.lock():
            self.reopen()
            self.run.write_value(f"{self.inside}/{layout.RESULT}", study)
            self.run.list_below(self.inside)

    def _settle(self, path: Path, kind: type[T], key: Callable[[T], str]) -> None:
        """Write a journal anew: the latest value of each key, in the keys' order.

        Values are added as requests come back, an order that no two studies share.
        """
        added = read_journal(path, kind)
        latest = {key(value): value for value in added}
        settled = [latest[each] for each in sorted(latest)]
        if settled != added:
            self.reopen()
            write_jsonl(path, map(to_record, settled))

    def _settings(self) -> tuple[EvaluationPlan, str]:
        path = self.path / _SETTINGS
        record = read_json(path)
        with reading(path, "a study's settings"):
            check_format(record, path)
            plan = from_record(EvaluationPlan, record["plan"])
            return plan, str(record["conversations_sha256"])

    def _verdicts(self, judge: str) -> Path:
        return self.path / _HARM / f"verdicts-{layout.plain_name(judge)}.jsonl"

    def _folder(self, kind: str, arm: str) -> Path:
        return self.path / kind / layout.plain_name(arm)


def _unit(folder: Path, group: int, turn: int) -> Path:
    return folder / f"g{group:03d}-t{turn:02d}.jsonl"


def _lines(path: Path, kind: type[T]) -> list[T]:
    with reading(path, f"a {kind.__name__} per line"):
        return [from_record(kind, record) for record in read_jsonl(path)]


def _hash_of(conversations: Sequence[PlannedConversation]) -> str:
    return hashlib.sha256(jsonl(map(to_record, conversations))).hexdigest()
