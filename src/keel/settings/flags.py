"""Marks the settings fields that commands take as options, and reads the sentences under fields."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

SOURCES, MODEL, JUDGING = "Prompts and answers", "The model", "Judging"
SWEEP, TASKS = "With --sweep", "Tasks of lm-evaluation-harness"
SPEED, OUTPUT = "Speed", "Output"
ENDPOINT = "A model behind an address"
"""Headings under which a command's help groups its options."""


@dataclass(frozen=True)
class Flag:
    """Marks a settings field as an option of commands: `Annotated[int, Flag("--min-count")]`."""

    name: str
    heading: str = ""
    """Group of the help that it stands in; empty for the first."""
    least: float | None = None
    """Lowest number accepted."""
    most: float | None = None
    """Highest number accepted."""
    metavar: str | None = None
    """What stands for the value in the help."""
    also: tuple[str, ...] = ()
    """Other names, shown beside the first."""
    former: tuple[str, ...] = ()
    """Names that it had before: still accepted, no longer shown."""
    read: Callable[[str], Any] | None = None
    """Makes the field's value of a word; without it the word is the value."""


@dataclass(frozen=True)
class FlaggedField:
    """A field of a settings value that is an option of commands."""

    path: tuple[str, ...]
    """Its name, after those of the fields that it stands in."""
    type: Any
    default: Any
    sentence: str
    flag: Flag


def flagged_fields(settings: object) -> Iterator[FlaggedField]:
    """The flagged fields of a settings value, those of settings within it included.

    Defaults are what the value holds, so one class can have other defaults in another's field.

    >>> from keel.settings import CompareSettings
    >>> [field.flag.name for field in flagged_fields(CompareSettings())]
    ['--components', '--seed']
    """
    cls: Any = type(settings)
    for name, kind in _hints(cls).items():
        value = getattr(settings, name)
        flag = next((m for m in getattr(kind, "__metadata__", ()) if isinstance(m, Flag)), None)
        if flag is not None:
            yield FlaggedField((name,), kind.__origin__, value, sentences(cls)[name], flag)
        elif is_dataclass(value):
            for inner in flagged_fields(value):
                path = (name, *inner.path)
                yield FlaggedField(path, inner.type, inner.default, inner.sentence, inner.flag)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def sentences(cls: type) -> dict[str, str]:
    """What stands under each field of a settings class, on one line; empty where nothing does."""
    under = _docstrings(cls.__module__).get(cls.__name__, {})
    return {field.name: under.get(field.name, "") for field in fields(cls)}


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Strings under the fields of every class of a module, from its source."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _strings_under(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _strings_under(cls: ast.ClassDef) -> dict[str, str]:
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(cls.body, cls.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
