"""Commands with commands of their own, of which one runs where none is named."""

from __future__ import annotations

from typing import Any

import typer.core


def running_by_default(command: str) -> type[typer.core.TyperGroup]:
    """A group of commands that runs this one where the line names none."""

    class Group(typer.core.TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            is_named = not args or args[0] in self.commands or args == ["--help"]
            return super().parse_args(ctx, args if is_named else [command, *args])

    return Group
