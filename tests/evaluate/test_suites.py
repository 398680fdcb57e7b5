"""Suites by name: Keel's own, a user's by decorator, a package's by entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from keel import pipeline
from keel.errors import UsageError
from keel.evaluate import suite
from keel.pipeline import SUITES
from keel.types import Conversation, Item, Message, Suite

OWN = ("susceptibility", "jailbreak", "base-purpose", "base-traits", "drift-harm")
CODE = """
from keel.evaluate import suite
from keel.types import Conversation, Item, Message, Suite

@suite("farewells")
def farewells(data=None) -> Suite:
    texts = ["Bye!"] if data is None else data.read_text().splitlines()
    items = (Item(f"f{n}", Conversation((Message("user", t),))) for n, t in enumerate(texts))
    return Suite("farewells", tuple(items), "role", "farewells", ("fully",))
"""


@pytest.fixture(autouse=True)
def _registered_alone(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(SUITES, "_values", dict(SUITES._values))
    monkeypatch.setattr(SUITES, "_origins", dict(SUITES._origins))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that offers the suite `farewells`."""
    (tmp_path / "keel_farewells.py").write_text(CODE, encoding="utf-8")
    info = tmp_path / "keel_farewells-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keel-farewells\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[keel.suites]\nfarewells = keel_farewells\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("keel_farewells", None)


def greetings() -> Suite:
    talk = Conversation((Message("user", "Hello!"),))
    return Suite("greetings", (Item("g0", talk),), "role", "greetings", ("fully",))


def test_keels_own_suites_are_registered():
    assert SUITES.names()[: len(OWN)] == OWN


def test_a_decorated_function_is_a_suite_by_its_name():
    assert suite("greetings")(greetings) is greetings
    assert pipeline.open_suite("greetings") == greetings()
    assert "greetings" in SUITES.names()


def test_a_packages_suite_is_opened_by_its_name(package, tmp_path):
    assert "farewells" in SUITES.names()
    assert "keel_farewells" not in sys.modules
    assert pipeline.open_suite("farewells").items[0].conversation.messages[0].content == "Bye!"
    own = tmp_path / "mine.txt"
    own.write_text("So long!\nFarewell!\n")
    assert len(pipeline.open_suite("farewells", own).items) == 2


def test_a_file_is_refused_where_a_suite_takes_none():
    suite("greetings")(greetings)
    for name in ("greetings", "susceptibility"):
        with pytest.raises(UsageError, match=f"{name} has items of its own"):
            pipeline.open_suite(name, Path("mine.csv"))


def test_an_unknown_name_is_refused_with_all_there_are(package):
    with pytest.raises(UsageError, match=r"suite is 'jailbrake', expected one of .*farewells"):
        pipeline.open_suite("jailbrake")
