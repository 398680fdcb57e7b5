"""Lines that are added one by one, and batches that are there or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from keel.errors import CorruptArtifactError
from keel.store.batches import (
    append_journal,
    batch_path,
    committed_batches,
    read_batches,
    read_journal,
)
from keel.store.files import write_jsonl
from keel.types import Verdict


def test_values_come_back_in_the_order_in_which_they_were_added(tmp_path: Path):
    journal = tmp_path / "j.jsonl"
    assert read_journal(journal, Verdict) == []
    append_journal(journal, [Verdict("a", "fine"), Verdict("b", "harmful", 0.5)])
    append_journal(journal, [Verdict("a", "harmful")])
    assert [(v.case_id, v.label) for v in read_journal(journal, Verdict)] == [
        ("a", "fine"),
        ("b", "harmful"),
        ("a", "harmful"),
    ]


def test_a_torn_line_is_not_counted_and_cut_off_by_the_next_writer(tmp_path: Path):
    journal = tmp_path / "j.jsonl"
    append_journal(journal, [Verdict("a", "fine")])
    with journal.open("ab") as file:
        file.write(b'{"case_id": "b", "la')
    assert [verdict.case_id for verdict in read_journal(journal, Verdict)] == ["a"]
    append_journal(journal, [Verdict("c", "fine")])
    assert [verdict.case_id for verdict in read_journal(journal, Verdict)] == ["a", "c"]


def test_a_whole_line_that_is_none_of_ours_is_damage(tmp_path: Path):
    journal = tmp_path / "j.jsonl"
    append_journal(journal, [Verdict("a", "fine")])
    with journal.open("ab") as file:
        file.write(b'{"case_id": "b", "lable": "fine"}\n')
    with pytest.raises(CorruptArtifactError, match=r"j\.jsonl: Verdict has unknown fields"):
        read_journal(journal, Verdict)


def test_batches_are_read_by_number_and_other_files_are_passed_over(tmp_path: Path):
    answers = tmp_path / "answers"
    assert committed_batches(answers) == []
    write_jsonl(batch_path(answers, 100_000), [{"case_id": "last"}])
    write_jsonl(batch_path(answers, 2), [{"case_id": "first"}, {"case_id": "second"}])
    write_jsonl(batch_path(answers, 0, "first"), [{"case_id": "other turn"}])
    (tmp_path / "answers" / ".batch-00003.jsonl.ab12.tmp").touch()
    (tmp_path / "answers" / "notes.jsonl").touch()
    assert committed_batches(answers) == [2, 100_000]
    assert [verdict.case_id for verdict in read_batches(answers, Verdict)] == [
        "first",
        "second",
        "last",
    ]


def test_a_batch_cut_off_by_a_copy_is_damage(tmp_path: Path):
    path = batch_path(tmp_path, 0)
    write_jsonl(path, [{"case_id": "a"}])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptArtifactError, match="line 1 is cut off"):
        list(read_batches(tmp_path, Verdict))
