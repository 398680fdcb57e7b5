"""What the docs say can be done: code runs, commands parse, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
import typer.main

from docs.make import made_pages
from keel import pipeline
from keel.cli.app import make_app
from tests.docs.pages import (
    DOCS,
    PAGES,
    ROOT,
    anchors,
    blocks,
    links,
    name_of,
    named_code,
    named_tests,
)

CODE_PAGES = [page for page in PAGES if any(b.language == "python" for b in blocks(page))]
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LOG.md")
LINKING_PAGES = [*PAGES, *(ROOT / name for name in ROOT_PAGES)]
COMMANDS = [
    (f"{name_of(page)}:{block.line}", line)
    for page in LINKING_PAGES
    for block in blocks(page)
    if block.language == "sh"
    for line in block.text.splitlines()
    if line.startswith("keel ")
]
MOST_LINES_OF_A_DECISION = 60
NAMED_TESTS = sorted({name for page in PAGES for name in named_tests(page)})


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """On a tiny model a second thread costs more than it brings, on a busy machine many times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", CODE_PAGES, ids=name_of)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    page: Path,
    model_folder: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """`MODEL` is a tiny model, `runs/mine` a run of it; files that the page shows are written."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, "runs/mine")
    namespace = {"__name__": "docs", "MODEL": str(model_folder)}
    for block in blocks(page):
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            # Empty lines before it, so that a traceback names the page's own line.
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, name_of(page), "exec"), namespace)


@pytest.mark.parametrize(("place", "line"), COMMANDS, ids=[place for place, _ in COMMANDS])
def test_a_command_that_is_shown_can_be_given(place: str, line: str):
    """Its name, options and choices exist; nothing is run."""
    name, *arguments = _words(line)
    command = typer.main.get_command(make_app()).commands.get(name)
    assert command is not None, f"{place}: there is no command keel {name}"
    while arguments and arguments[0] in getattr(command, "commands", {}):
        name, *arguments = arguments
        command = command.commands[name]
    if "--help" not in arguments:
        command.make_context(f"keel {name}", arguments)


def test_commands_are_shown_at_all():
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("page", LINKING_PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: no heading for {link}"


@pytest.mark.parametrize(("path", "name"), named_code(DOCS / "architecture.md"))
def test_files_and_names_on_the_page_of_architecture_are_in_the_code(path: str, name: str):
    """`src/keel/geometry.py`: `shift` is a file of that name with a definition of that name."""
    source = ROOT / path
    assert source.exists(), f"{path} is not there"
    assert not name or re.search(
        rf"^(?:async )?(?:def|class) {name}\b", source.read_text(encoding="utf-8"), re.MULTILINE
    ), f"{path} defines no {name}"


@pytest.mark.parametrize("page", made_pages(), ids=name_of)
def test_pages_made_from_the_code_are_up_to_date(page: Path):
    written = page.read_text(encoding="utf-8")
    assert written == made_pages()[page], f"{name_of(page)} is behind: run python -m docs.make"


@pytest.mark.parametrize("folder", [DOCS, DOCS / "decisions"], ids=name_of)
def test_every_page_is_listed_by_its_folder(folder: Path):
    listed = {(folder / link.partition("#")[0]).resolve() for link in links(folder / "README.md")}
    assert set(folder.glob("*.md")) - {folder / "README.md"} <= listed


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("0*.md")), ids=name_of)
def test_a_decision_is_short_and_says_the_same_four_things(page: Path):
    text = page.read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Context", "## Decision", "## What it costs", "## Evidence"]
    assert len(text.splitlines()) < MOST_LINES_OF_A_DECISION


def test_tests_named_as_evidence_exist():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    missing = [name for name in NAMED_TESTS if not any(f"def {name}(" in s for s in sources)]
    assert NAMED_TESTS
    assert not missing


@pytest.mark.parametrize("scale", get_args(pipeline.Scale))
def test_the_table_of_scales_is_as_the_code_has_them(scale: str):
    made = pipeline.ExtractSettings.at_scale(scale)
    numbers = [
        made.prompts.roles or "all",
        made.prompts.questions or "all",
        made.prompts.prompts_per_question,
        made.sampling.max_new_tokens,
        made.mapping.min_count,
    ]
    row = " | ".join([f"| `{scale}`", *map(str, numbers)]) + " |"
    assert row in (DOCS / "your-own-model.md").read_text(encoding="utf-8")


def _words(line: str) -> list[str]:
    """The words after `keel`, up to a pipe, a redirection or a comment."""
    words = shlex.split(line, comments=True)[1:]
    ends = [place for place, word in enumerate(words) if word in ("|", ">", "<", "&&")]
    return words[: ends[0]] if ends else words
