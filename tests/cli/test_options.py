"""Options are the settings' fields: names, defaults and sentences are written in one place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

import keel.settings
from keel.cli.app import make_app
from keel.cli.options import Command, Given, shown_default
from keel.settings import (
    CalibrateSettings,
    EndpointLimits,
    ExtractSettings,
    JudgeSettings,
    SweepSettings,
    flagged_fields,
)


def callbacks(group: typer.Typer, before: str = "") -> Iterator[tuple[str, Any]]:
    for info in group.registered_commands:
        yield before + str(info.name), info.callback
    for sub in group.registered_groups:
        assert sub.typer_instance is not None
        yield from callbacks(sub.typer_instance, f"{before}{sub.name} ")


def clicks(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from clicks(command, f"{before}{name} ")
        else:
            yield before + name, command


CALLBACKS = dict(callbacks(make_app()))
CLICKS = dict(clicks(typer.main.get_command(make_app())))


def options_of(name: str) -> dict[str, Any]:
    """Options that a command shows, by their first name."""
    return {p.opts[0]: p for p in CLICKS[name].params if p.param_type_name == "option"}


@pytest.mark.parametrize("name", CALLBACKS)
def test_an_option_says_what_the_field_says_and_shows_its_default(name):
    command = CALLBACKS[name]
    if not isinstance(command, Command):
        return
    options = options_of(name)
    for flag, fields in command.by_flag.items():
        text = options[flag.partition("/")[0]].help
        assert text.startswith(fields[0].sentence), flag
        assert (default := shown_default(fields[0].default)) in text, (flag, default)


@pytest.mark.parametrize("name", CALLBACKS)
def test_no_default_is_typed_into_a_sentence(name):
    """Once, defaults stood in brackets in the help, and nothing compared them with the code."""
    for option in options_of(name).values():
        sentence = (option.help or "").partition("[default")[0]
        assert not re.search(r"\(\d[\d.]*\)", sentence), option.help


@pytest.mark.parametrize("name", CLICKS)
def test_the_first_panel_of_a_help_has_twelve_options_at_most(name):
    """Counted as a reader does, who sees `--help` among them."""
    command = CLICKS[name]
    shown = [p for p in command.get_params(typer.Context(command)) if p.param_type_name == "option"]
    first = [p.opts[0] for p in shown if not getattr(p, "rich_help_panel", None) and not p.hidden]
    assert "--help" in first or "-h" in first
    assert len(first) <= 12, first


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_command_that_is_given_nothing_takes_the_settings_own_defaults(name):
    command = CALLBACKS[name]
    for settings in command.settings if isinstance(command, Command) else ():
        for value in settings.values() if isinstance(settings, dict) else [settings]:
            assert Given({}).over(value) == value


def test_every_flag_of_the_settings_is_an_option_of_some_command():
    known = {name for command in CLICKS.values() for p in command.params for name in p.opts}
    for name in keel.settings.__all__:
        cls = getattr(keel.settings, name)
        if dataclasses.is_dataclass(cls) and name not in ("Band", "Flag", "FlaggedField"):
            value = ExtractSettings.at_scale("smoke") if cls is ExtractSettings else cls()
            for field in flagged_fields(value):
                assert {field.flag.name.partition("/")[0], *field.flag.former} <= known


def test_what_is_given_replaces_fields_of_settings_within_settings():
    given = Given({"--min-count": 5, "--max-usd": 1.0, "--usd-in": 2.0, "--usd-out": 3.0})
    settings = given.over(JudgeSettings())
    assert (settings.mapping.min_count, settings.mapping.label) == (5, "playing")
    assert settings.grader.limits == EndpointLimits(
        max_cost_usd=1.0, usd_per_million_in=2.0, usd_per_million_out=3.0
    )
    assert given.names(EndpointLimits()) == ["--max-usd", "--usd-in", "--usd-out"]


def test_settings_that_share_an_option_show_both_defaults():
    text = options_of("calibrate")["--percentile"].help
    usual = ", ".join(f"{p:g}" for p in CalibrateSettings().percentiles)
    sweep = ", ".join(f"{p:g}" for p in SweepSettings().grid.percentiles)
    assert text.endswith(f"[default: {usual}; with --sweep: {sweep}]")


def test_a_default_that_the_scale_decides_is_shown_for_each_scale():
    text = options_of("extract")["--max-new-tokens"].help
    assert text.endswith("[default: 64 (smoke), 128 (small), 512 (paper)]")


def test_options_of_former_versions_are_taken_and_not_shown(keel):
    options = options_of("calibrate")
    assert {"--dearest", "--most"} <= {name for name, p in options.items() if p.hidden}
    assert "--dearest" not in keel("calibrate", "--help").out
