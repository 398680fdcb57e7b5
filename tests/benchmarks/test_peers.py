"""A library that cannot be installed costs its arm, not the benchmark."""

import sys

import pytest

from benchmarks import peers


def test_an_environment_that_cannot_be_made_says_why(tmp_path, monkeypatch):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    monkeypatch.setenv("KEEL_BENCH_CACHE", str(in_the_way / "bench"))

    with pytest.raises(peers.PeerMissingError, match=r"-m venv.*failed"):
        peers.interp_python()


def test_an_environment_for_other_versions_is_made_anew(tmp_path, monkeypatch):
    """What lies there was made for another torch: using it would compare torch with torch."""
    (tmp_path / "interp" / "bin").mkdir(parents=True)
    (tmp_path / "interp" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "interp" / "requirements.txt").write_text("torch==1.0")
    monkeypatch.setenv("KEEL_BENCH_CACHE", str(tmp_path))
    commands = []
    monkeypatch.setattr(peers, "_run", lambda *command: commands.append(command[1:3]))

    peers.interp_python()
    peers.interp_python()

    assert commands == [("-m", "venv"), ("-m", "pip"), ("-c", "import interp_engine")]
