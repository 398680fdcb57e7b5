"""Sentences, names and defaults of settings are read from the fields, wherever they stand."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated

import pytest

import keel.settings
from keel.settings import Flag, flagged_fields, sentences

CLASSES = [
    cls
    for name in keel.settings.__all__
    if dataclasses.is_dataclass(cls := getattr(keel.settings, name))
    and cls.__module__ != "keel.settings.flags"
    and name != "Band"
]


@dataclass(frozen=True)
class Inner:
    """Settings within settings."""

    height: Annotated[int, Flag("--height", least=1)] = 2
    """How high."""
    width: int = 3


@dataclass(frozen=True)
class Outer:
    """Settings that hold others, with another default than theirs."""

    inner: Inner = field(default_factory=lambda: Inner(height=7))
    depth: Annotated[tuple[int, ...], Flag("--depth")] = ()
    """How deep, on
    two lines."""


def test_sentences_are_those_under_the_fields_on_one_line():
    assert sentences(Inner) == {"height": "How high.", "width": ""}
    assert sentences(Outer)["depth"] == "How deep, on two lines."


def test_flags_within_settings_have_the_default_of_the_value_that_holds_them():
    fields = {f.flag.name: f for f in flagged_fields(Outer())}
    assert list(fields) == ["--height", "--depth"]
    assert fields["--height"].path == ("inner", "height")
    assert (fields["--height"].default, fields["--height"].type) == (7, int)
    assert fields["--depth"].sentence == "How deep, on two lines."


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_of_settings_has_a_sentence_or_settings_of_its_own(cls):
    for name, sentence in sentences(cls).items():
        kind = cls.__dataclass_fields__[name].type
        is_settings = any(f"{other.__name__}" == kind for other in CLASSES)
        assert sentence.endswith(".") or is_settings, f"{cls.__name__}.{name} says nothing"


def test_settings_load_neither_torch_nor_pydantic():
    code = """
import sys, keel.settings
heavy = {"torch", "transformers", "numpy", "pydantic", "typer"} & set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
