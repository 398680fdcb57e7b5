"""Lines that are added one by one, and batches that are there or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from keel.errors import CorruptArtifactError
from keel.store.journal import Batches, Journal
from keel.types import Verdict


def test_values_come_back_in_the_order_in_which_they_were_added(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl", Verdict)
    assert journal.read() == []
    journal.append([Verdict("a", "fine"), Verdict("b", "harmful", 0.5)])
    journal.append([Verdict("a", "harmful")])
    assert [(v.case_id, v.label) for v in journal.read()] == [
        ("a", "fine"),
        ("b", "harmful"),
        ("a", "harmful"),
    ]


def test_a_torn_line_is_not_counted_and_cut_off_by_the_next_writer(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl", Verdict)
    journal.append([Verdict("a", "fine")])
    with journal.path.open("ab") as file:
        file.write(b'{"case_id": "b", "la')
    assert [verdict.case_id for verdict in journal.read()] == ["a"]
    journal.append([Verdict("c", "fine")])
    assert [verdict.case_id for verdict in journal.read()] == ["a", "c"]


def test_a_whole_line_that_is_none_of_ours_is_damage(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl", Verdict)
    journal.append([Verdict("a", "fine")])
    with journal.path.open("ab") as file:
        file.write(b'{"case_id": "b", "lable": "fine"}\n')
    with pytest.raises(CorruptArtifactError, match=r"j\.jsonl: Verdict has unknown fields"):
        journal.read()


def test_batches_are_read_by_number_and_other_files_are_passed_over(tmp_path: Path):
    batches = Batches(tmp_path / "answers", Verdict)
    assert batches.committed() == []
    batches.write(100_000, [{"case_id": "last"}])
    batches.write(2, [{"case_id": "first"}, {"case_id": "second"}])
    Batches(tmp_path / "answers", Verdict, "first").write(0, [{"case_id": "other turn"}])
    (tmp_path / "answers" / ".batch-00003.jsonl.ab12.tmp").touch()
    (tmp_path / "answers" / "notes.jsonl").touch()
    assert batches.committed() == [2, 100_000]
    assert [verdict.case_id for verdict in batches.read()] == ["first", "second", "last"]


def test_a_batch_cut_off_by_a_copy_is_damage(tmp_path: Path):
    batches = Batches(tmp_path, Verdict)
    batches.write(0, [{"case_id": "a"}])
    path = batches.path(0)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptArtifactError, match="line 1 is cut off"):
        list(batches.read())
