"""Values by name: registered by code, or offered by an installed package."""

from __future__ import annotations

import pytest

from keel.errors import UsageError
from keel.registry import Registry


def first() -> None: ...


def second() -> None: ...


@pytest.fixture
def registry() -> Registry[int]:
    made: Registry[int] = Registry("colour", "keel.test_colours")
    made.add("red", 1, first)
    return made


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package that offers `colour`, by a module with this text."""

    def install(name: str, text: str, colour: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[keel.test_colours]\n{colour} = {name}\n")

    monkeypatch.syspath_prepend(tmp_path)
    return install


def test_a_registered_value_is_had_by_its_name(registry):
    assert registry.get("red") == 1


def test_an_unknown_name_is_refused_with_all_there_are(registry, package):
    package("offers_blue", "", "blue")
    with pytest.raises(UsageError, match="colour is 'green', expected one of red, blue"):
        registry.get("green")


def test_a_taken_name_is_refused_and_says_by_whom(registry):
    with pytest.raises(UsageError, match=r"'red' of .*second is registered already, by .*first"):
        registry.add("red", 2, second)
    assert registry.get("red") == 1


def test_the_same_source_may_register_anew(registry):
    registry.add("red", 2, first)
    assert registry.get("red") == 2


def test_a_package_is_imported_only_when_its_name_is_looked_up(registry, package, capsys):
    package("offers_blue", "print('imported')", "blue")
    assert registry.names() == ("red", "blue")
    registry.get("red")
    assert capsys.readouterr().out == ""


def test_a_package_that_registers_nothing_is_named(registry, package):
    package("offers_none", "", "blue")
    with pytest.raises(UsageError, match="offers_none.*registers no colour 'blue'"):
        registry.get("blue")


def test_a_package_that_cannot_be_imported_is_named_with_its_error(registry, package):
    package("offers_broken", "import missing_package", "blue")
    with pytest.raises(UsageError, match="of offers_broken cannot be imported.*missing_package"):
        registry.get("blue")
