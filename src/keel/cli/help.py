"""How lines are read and help is laid out: plain text that wraps at any width.

Typer's own tables cut words that are longer than a column, which at 80 columns is many.
"""

from __future__ import annotations

import math
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import typer.core

from keel.errors import UsageError

_WIDEST_NAMES = 24
"""Columns for an option's names; longer ones have a line of their own."""

_LEAST_BESIDE = 24
"""Columns of text that are left beside names; where fewer are, text stands under the names."""

_SHELL_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")

_COMPLETION = ("--show-completion", "--install-completion")

_MAY_BE_EMPTY = ("system_given",)
"""Parameters to which an empty word means something: no system prompt."""


class PlainCommand(typer.core.TyperCommand):
    """A command whose help loses no word, and that refuses values that none can use."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an empty value, and a number that is none, before anything heavy is imported.

        A shell makes an empty value of a variable that is not set: `keel report "$RUN"`. pathlib
        reads it as the folder that it is called in.
        """
        words = list(args)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            if not all(word.strip() for word in words):
                given, _, _ = self.make_parser(ctx).parse_args(words)
                self._refuse(ctx, given, _is_blank, "is empty, expected a value")
            self._refuse(ctx, ctx.params, _is_endless, "is {}, expected a finite number")
        return rest

    def _refuse(
        self, ctx: Any, values: Mapping[str, Any], is_bad: Callable[[Any], bool], why: str
    ) -> None:
        """Raise UsageError with the reason for the first parameter that has such a value."""
        for parameter in self.get_params(ctx):
            value = values.get(parameter.name)
            each = value if isinstance(value, list | tuple) else [value]
            bad = [word for word in each if is_bad(word)]
            if bad and parameter.name not in _MAY_BE_EMPTY:
                name = parameter.opts[0]
                if not name.startswith("-"):
                    name = (parameter.metavar or name.upper()).strip("[].")
                raise UsageError(f"{name} {why.format(*bad)}; see {ctx.command_path} --help")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, text, options and examples, no line wider than the terminal."""
        formatter.width = _columns()
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options, a section for each heading."""
        _write_sections(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples as they stand, so that they can be copied."""
        _write_examples(self.epilog, formatter)


class PlainGroup(typer.core.TyperGroup):
    """Commands with commands of their own, whose help loses no word."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, text, options and commands, no line wider than the terminal."""
        formatter.width = _columns()
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Options, then the commands, each with its whole first paragraph."""
        _write_sections(self.get_params(ctx), ctx, formatter)
        commands = [
            (name, " ".join((each.help or "").split("\n\n")[0].split()))
            for name, each in self.commands.items()
        ]
        with formatter.section("Commands"):
            _write_rows(commands, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples as they stand, so that they can be copied."""
        _write_examples(self.epilog, formatter)


class RootGroup(PlainGroup):
    """All commands; the options for a shell's completion take the name of a shell."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Options, of which those for completion say that a shell may be named."""
        parameters: list[Any] = super().get_params(ctx)
        for each in parameters:
            if each.opts[0] in _COMPLETION and "named" not in each.help:
                each.help = each.help.replace("shell", "shell, or the one named after it", 1)
        return parameters

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show or install the completion of the shell that is named, and exit.

        Typer's own options take no name: they passed `zsh` over, and showed what this shell has.
        """
        option, _, shell = args[0].partition("=") if args else ("", "", "")
        if option in _COMPLETION and (shell or len(args) > 1):
            _complete(ctx, option, shell or args[1])
        return super().parse_args(ctx, args)


def _complete(ctx: Any, option: str, shell: str) -> None:
    from typer import completion

    shells = [known.value for known in completion.Shells]  # type: ignore[attr-defined]
    if shell not in shells:
        listed = f"{', '.join(shells[:-1])} or {shells[-1]}"
        fault = f"{option} {shell!r} is no shell that has completion"
        raise UsageError(f"{fault}, expected {listed}; name one of these")
    act = completion.show_callback if option == _COMPLETION[0] else completion.install_callback
    try:
        act(ctx, None, shell)  # type: ignore[arg-type]  # the parameter, which it does not read
    except FileNotFoundError as error:  # PowerShell is asked where its profile is
        raise UsageError(f"no {error.filename} here; install completion where it runs") from None


def _is_blank(value: Any) -> bool:
    """Whether this is a word of which nothing can be seen."""
    return isinstance(value, str) and not value.strip()


def _is_endless(value: Any) -> bool:
    """Whether this is an infinity, or NaN."""
    return isinstance(value, float) and not math.isfinite(value)


def running_by_default(command: str) -> type[PlainGroup]:
    """A group of commands that runs this one where the line names none."""

    class RunningGroup(PlainGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            is_named = not args or args[0] in self.commands or args in (["--help"], ["-h"])
            return super().parse_args(ctx, args if is_named else [command, *args])

    return RunningGroup


def _write_sections(parameters: Iterable[Any], ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in parameters:
        if (record := parameter.get_help_record(ctx)) is not None:
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            heading = getattr(parameter, "rich_help_panel", None) or kind
            sections.setdefault(heading, []).append(record)
    for heading, records in sections.items():
        if records:
            with formatter.section(heading):
                _write_rows(records, formatter)


def _columns() -> int:
    """Columns that help may fill: typer's own are never under 50, whatever the terminal's."""
    return max(20, min(80, shutil.get_terminal_size().columns) - 2)


def _write_rows(rows: Sequence[tuple[str, str]], formatter: Any) -> None:
    """Names, and beside them what they are; a word is not parted at its hyphens, to be copied."""
    column = 4 + min(_WIDEST_NAMES, max(len(names) for names, _ in rows))
    if formatter.width - column < _LEAST_BESIDE:
        column = 6
    for names, text in rows:
        lines = textwrap.wrap(text, formatter.width - column, break_on_hyphens=False)
        *above, last = textwrap.wrap(names, formatter.width - 2, break_on_hyphens=False)
        first = f"  {last}".ljust(column)
        if len(first) > column or first[-2:].strip():
            lines, first = ["", *lines], first.rstrip()
        shown = (" " * column + line if at else first + line for at, line in enumerate(lines))
        formatter.write("".join(f"{line}\n" for line in (*(f"  {name}" for name in above), *shown)))


def _write_examples(epilog: str | None, formatter: Any) -> None:
    """The lines; what is wider than the terminal is parted as a shell reads on."""
    if epilog:
        lines = [line.rstrip() for line in epilog.splitlines() if line.strip()]
        columns = max(20, shutil.get_terminal_size().columns)
        formatter.write("\n" + "".join(f"{_continued(line, columns)}\n" for line in lines))


def _continued(line: str, columns: int) -> str:
    """A command over as many lines as it needs: pasted, a shell reads it as the one line."""
    if len(line) <= columns:
        return line
    indent = line[: -len(line.lstrip())]
    rows = [indent]
    for word in _SHELL_WORD.findall(line):
        if rows[-1].strip() and len(f"{rows[-1]} {word} \\") > columns:
            rows[-1] += " \\"
            rows.append(f"{indent}  ")
        rows[-1] += f" {word}" if rows[-1].strip() else word
        while len(rows[-1]) > columns - len(" \\"):
            rows[-1:] = [f"{rows[-1][: columns - 1]}\\", rows[-1][columns - 1 :]]
    return "\n".join(rows)
