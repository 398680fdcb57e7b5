"""What a registry would get: both distributions, and the wheel in a clean environment.

`make package` runs these, in an empty folder and without the repository on the path.
"""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest

from keel import __version__
from keel.engines.catalogue import EMBEDDED
from tests.docs.pages import ROOT

pytestmark = [pytest.mark.package, pytest.mark.timeout(1800)]

LARGEST_BYTES = 8_000_000
"""Of either file. A registry takes 100 MB; what is larger than this holds what nobody wants."""
WEIGHTS = (".safetensors", ".gguf", ".pt", ".bin")


@dataclass(frozen=True)
class Distributions:
    """Both files."""

    wheel: Path
    source: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The source distribution of the repository, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "-o", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Distributions(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


@pytest.fixture(scope="session")
def metadata(distributions: Distributions) -> Message:
    """What the registry reads."""
    with zipfile.ZipFile(distributions.wheel) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(name))


@pytest.fixture(scope="session")
def page(metadata: Message) -> str:
    """The long description."""
    text = metadata.get_payload()
    assert isinstance(text, str)
    return text


Installed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A command of a clean environment that has the wheel, called in an empty folder."""
    home = tmp_path_factory.mktemp("environment")
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    pins = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "-q", *pins, str(distributions.wheel)], check=True, env=own)
    empty = tmp_path_factory.mktemp("empty")

    def call(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(home / "bin" / program), *arguments],
            cwd=empty,
            env={**own, "KEEL_CACHE": str(empty / "cache")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return call


def test_the_source_distribution_holds_what_the_repository_keeps_and_nothing_else(distributions):
    with tarfile.open(distributions.source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kept = set(listed.stdout.split())
    assert names - kept == {"PKG-INFO"}
    assert {"src/keel/cli/app.py", "tests/conftest.py", "docs/README.md", "Makefile"} <= names
    assert not [name for name in names if name.startswith(".ci") or name.endswith(WEIGHTS)]


def test_the_wheel_holds_the_package_and_what_it_reads(distributions):
    with zipfile.ZipFile(distributions.wheel) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"keel", f"keel_llm-{__version__}.dist-info"}
    assert {"keel/py.typed", "keel/pipeline/recorded-demo.zip"} <= set(names)
    assert [name for name in names if name.startswith("keel/prompts/library/")]
    assert not [name for name in names if name.endswith(WEIGHTS) or "__pycache__" in name]


def test_neither_is_large(distributions):
    for file in (distributions.wheel, distributions.source):
        assert file.stat().st_size < LARGEST_BYTES


def test_a_registry_can_show_the_description(distributions):
    files = [str(distributions.wheel), str(distributions.source)]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_link_and_picture_of_the_description_is_absolute(page):
    """Those of the README are relative: to a registry they lead nowhere."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page)
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []


def test_the_description_begins_as_the_readme_does(page):
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[0]
    assert page.splitlines()[0] == first


def test_versions_agree(metadata):
    assert metadata["Version"] == __version__
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {__version__} " in changes


def test_a_tag_on_this_commit_names_its_version():
    tags = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", "v*"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert tags in ([], [f"v{__version__}"])


def test_the_extra_of_the_demo_brings_the_weights_that_the_catalogue_names(metadata):
    requirement = EMBEDDED["smollm2"].requirement.split()[-1]
    extras = [line for line in metadata.get_all("Requires-Dist") if "extra == 'demo'" in line]
    assert any(line.startswith(f"{requirement};") for line in extras), extras


def test_the_installed_command_says_its_version(installed):
    done = installed("keel", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


def test_the_installed_demo_shows_and_reports_its_recorded_run(installed):
    demo = installed("keel", "demo", "--json")
    assert demo.returncode == 0, demo.stderr
    shown = json.loads(demo.stdout)
    assert "Recorded, not computed here" in shown["recording"]
    report = installed("keel", "report", "runs/demo")
    assert report.returncode == 0, report.stderr
    known = installed("keel", "info", "runs/demo", "--json")
    assert json.loads(known.stdout)["model"] == "smollm2", known.stderr
    code = "import keel; print(keel.open_run('runs/demo').floors.name)"
    opened = installed("python", "-c", code)
    assert opened.stdout.strip() == shown["calibration"]["chosen"], opened.stderr


@pytest.mark.parametrize("command", ["ui", "extract", "drift", "serve", "prompts", "export"])
def test_the_installed_commands_show_their_help(installed, command):
    done = installed("keel", command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout


def test_weights_that_are_not_installed_are_named_with_the_command(installed):
    done = installed("keel", "doctor", "smollm2")
    assert done.returncode == 3
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("keel: ")]
    assert f"pip install {EMBEDDED['smollm2'].requirement}" in line
