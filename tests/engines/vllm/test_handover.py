"""What a worker hands over arrives as it was, by memory or by message, and leaves nothing."""

import errno
import gc
import os
from pathlib import Path

import pytest
import torch

from keel.engines.vllm.handover import SumsBuffer, SumsFolder, packed_sums, unpacked_sums

NAMES = ["a/0", "a/1", "b/0"]


def handed_over(buffer, folder, path, seed=0, names=NAMES):
    """Sums [layer, name, hidden] and norms, as sent, and the message as it was read."""
    draws = torch.Generator().manual_seed(seed)
    sums_LND = torch.randn(4, len(names), 5, generator=draws)
    norms_LN = torch.randn(4, len(names), generator=draws)
    room_LND = buffer.empty(path, sums_LND.shape)
    if room_LND is not None:
        room_LND.copy_(sums_LND)
    file = "" if room_LND is None else buffer.name
    tokens = {f"{name}/tokens": torch.tensor([n]) for n, name in enumerate(names)}
    message = packed_sums(tokens, names, sums_LND, norms_LN, file)
    return sums_LND, norms_LN, message, unpacked_sums(message, folder)


def open_files():
    """How many files this process has open; 0 where the system does not say."""
    files = Path("/proc/self/fd")
    return len(list(files.iterdir())) if files.is_dir() else 0


def check(sums_LND, norms_LN, read, names=NAMES):
    for n, name in enumerate(names):
        assert torch.equal(read[f"{name}/sums"], sums_LND[:, n])
        assert torch.equal(read[f"{name}/norms"], norms_LN[:, n])
        assert read[f"{name}/tokens"].item() == n


@pytest.mark.parametrize("is_shared", [True, False], ids=["memory", "message"])
def test_sums_arrive_as_they_were(is_shared):
    folder, buffer = SumsFolder(), SumsBuffer()
    for seed, names in ((0, NAMES), (1, ["c/0"]), (2, [f"d/{n}" for n in range(40)])):
        *sent, message, read = handed_over(
            buffer, folder, folder.path if is_shared else "", seed, names
        )
        assert bool(message["file"]) is is_shared
        assert len(read) == 3 * len(names)
        check(*sent, read, names)


def test_a_message_of_no_sums_is_read():
    message = packed_sums(
        {"a/0/tokens": torch.tensor([3])}, [], torch.zeros(0, 0, 5), torch.zeros(0, 0), ""
    )
    assert unpacked_sums(message, SumsFolder()).keys() == {"a/0/tokens"}


def test_a_worker_that_does_not_see_the_folder_sends_the_sums_themselves():
    """As one on another machine: the folder's path means nothing there."""
    folder = SumsFolder()
    *sent, message, read = handed_over(SumsBuffer(), folder, f"{folder.path}-elsewhere")
    assert message["file"] == ""
    check(*sent, read)


def test_where_memory_is_short_the_sums_travel_in_the_message(monkeypatch):
    """Written to without room, a mapped file would end the process with a bus error."""

    def refused(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", refused)
    folder = SumsFolder()
    *sent, message, read = handed_over(SumsBuffer(), folder, folder.path)
    assert message["file"] == ""
    check(*sent, read)


def test_two_workers_write_into_files_of_their_own():
    folder = SumsFolder()
    first, second = (handed_over(SumsBuffer(), folder, folder.path, seed) for seed in (1, 2))
    check(first[0], first[1], first[3])
    check(second[0], second[1], second[3])


def test_no_file_is_left_while_both_go_on_and_no_folder_once_they_end():
    """A process that is killed cannot tidy up: there must be nothing to tidy."""
    folder, buffer = SumsFolder(), SumsBuffer()
    handed_over(buffer, folder, folder.path)
    path = Path(folder.path)
    assert path.is_dir()
    assert not list(path.iterdir())
    *sent, _, read = handed_over(buffer, folder, folder.path, seed=3)
    check(*sent, read)
    before = open_files()
    del folder, buffer, read
    gc.collect()
    assert not path.exists()
    assert not before or open_files() < before


def test_only_its_user_can_read_the_folder():
    folder = SumsFolder()
    assert Path(folder.path).stat().st_mode & 0o077 == 0
