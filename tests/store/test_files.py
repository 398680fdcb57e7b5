"""Files are whole or absent, whatever the disk does."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from keel.errors import StorageError
from keel.store.files import (
    append_lines,
    read_json,
    read_jsonl,
    read_tensors,
    remove_leftovers,
    replacing,
    sha256_of,
    write_bytes,
    write_json,
    write_jsonl,
    write_tensors,
)


def test_a_full_disk_leaves_the_old_file_and_no_half_one(small_disk: Path):
    path = small_disk / "a.json"
    write_json(path, {"kept": 1})
    with pytest.raises(StorageError, match=r"a\.json \(1000003 bytes\).*free some space and run"):
        write_json(path, "x" * 1_000_000)  # + 2 quotes + newline
    assert read_json(path) == {"kept": 1}
    assert names_in(small_disk) == ["a.json"]


def test_tensors_on_a_full_disk_raise_our_error_and_leave_nothing(small_disk: Path):
    # 100,000 float32 = 400,000 bytes
    with pytest.raises(StorageError, match="400000 bytes.*free some space"):
        write_tensors(small_disk / "t.safetensors", {"t": torch.ones(100_000)}, {})
    assert names_in(small_disk) == []


def test_appending_to_a_full_disk_takes_back_what_was_half_written(small_disk: Path):
    path = small_disk / "rows.jsonl"
    append_lines(path, b'{"n": 1}\n')
    with pytest.raises(StorageError):
        append_lines(path, b"9" * 1_000_000 + b"\n")
    assert path.read_bytes() == b'{"n": 1}\n'


def test_a_file_size_limit_leaves_nothing_behind_without_root(tmp_path: Path):
    """The same for everybody: the kernel refuses bytes past a limit of the process."""
    script = """
import resource, sys, torch
from pathlib import Path
from keel.errors import StorageError
from keel.store.files import append_lines, write_bytes, write_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
root = Path(sys.argv[1])
append_lines(root / "lines", b"1\\n")
for write in (
    lambda: write_bytes(root / "bytes", b"0" * 20_000),
    lambda: write_tensors(root / "tensors", {"t": torch.ones(5_000)}, {}),
    lambda: append_lines(root / "lines", b"0" * 20_000 + b"\\n"),
):
    try:
        write()
    except StorageError:
        continue
    sys.exit("nothing was raised")
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert names_in(tmp_path) == ["lines"]
    assert (tmp_path / "lines").read_bytes() == b"1\n"


def test_an_interrupt_leaves_the_old_file_and_no_half_one(tmp_path: Path):
    path = tmp_path / "a"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path, 3) as scratch:
        scratch.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_a_folder_that_is_a_file_names_the_file(tmp_path: Path):
    (tmp_path / "runs").write_text("I am a file")
    with pytest.raises(StorageError, match="plan.json"):
        write_json(tmp_path / "runs" / "plan.json", {})


@pytest.mark.usefixtures("locked_out")
def test_a_folder_that_may_not_be_written_asks_for_another_one(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="choose a folder that you may write to"):
        write_json(tmp_path / "plan.json", {})


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path: Path):
    (tmp_path / "rollouts").mkdir()
    ours, safetensors = "rollouts/.batch-00000.jsonl.1a2b3c4d.tmp", ".tmp6VhKqk"
    for name in (ours, safetensors, "mine.tmp", ".hidden"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [".hidden", "mine.tmp", "rollouts"]
    assert names_in(tmp_path / "rollouts") == []


def test_a_torn_last_line_is_cut_off_before_more_is_added(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": ' + b"9" * 200_000)
    append_lines(path, b'{"n": 2}\n')
    assert list(read_jsonl(path)) == [{"n": 1}, {"n": 2}]


def test_a_file_that_is_one_torn_line_starts_over(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n"')
    append_lines(path, b'{"n": 2}\n')
    assert list(read_jsonl(path)) == [{"n": 2}]


def test_lines_keep_every_character(tmp_path: Path):
    rows = ["a\nb\r\u2028\u0085", {"ü": "🏴‍☠️"}, "half \ud83c"]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 7), (1, 2, 3, 4)])
def test_tensors_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]):
    given = (torch.randn(shape) * 100).to(dtype)
    write_tensors(tmp_path / "t.safetensors", {"t": given}, {"who": "me"})
    tensors, metadata = read_tensors(tmp_path / "t.safetensors")
    assert tensors["t"].dtype == dtype
    assert torch.equal(tensors["t"], given)
    assert metadata == {"who": "me"}


def test_tensors_that_share_memory_or_are_views_are_written_each_whole(tmp_path: Path):
    base = torch.arange(12.0).reshape(3, 4)
    write_tensors(tmp_path / "t.safetensors", {"all": base, "turned": base.T, "row": base[1]}, {})
    tensors, _ = read_tensors(tmp_path / "t.safetensors")
    assert torch.equal(tensors["turned"], base.T)
    assert torch.equal(tensors["row"], base[1])
    # 12 + 12 + 4 float32 = 112 bytes, and a short header
    assert (tmp_path / "t.safetensors").stat().st_size < 112 + 400


def test_the_hash_is_that_of_the_bytes(tmp_path: Path):
    write_bytes(tmp_path / "a", b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "a") == expected


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_of_every_kind_may_be_read_as_the_umask_says(tmp_path: Path):
    """Tensors could be read by their owner alone, and others were told that they are corrupt."""
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "t.safetensors", {"t": torch.ones(2)}, {})
        write_json(tmp_path / "j.json", {})
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("t.safetensors", "j.json")]
    assert modes == [0o640, 0o640]


def test_numpy_reads_a_kind_of_number_that_it_does_not_have(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, {"a": "b"})
    tensors, metadata = read_tensors(path, "np")
    assert tensors["half"].dtype == "float32"
    assert (tensors["half"].tolist(), metadata) == ([1.5, -2.0], {"a": "b"})
