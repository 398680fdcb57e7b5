"""Writes what the docs take from the code: commands, the tree of the source, prices.

Run it as `python -m docs.make` (or `make docs`); tests/docs fails while a page is behind the code.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.scale import tables

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "keel"


def main() -> None:
    """Write every page that is behind the code, and say which."""
    for path, text in made_pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


def made_pages() -> dict[Path, str]:
    """Each page that is made from the code, as it should read now."""
    readme = (DOCS / "README.md").read_text(encoding="utf-8")
    scale = (DOCS / "scale.md").read_text(encoding="utf-8")
    return {
        DOCS / "cli.md": commands_page(),
        DOCS / "README.md": with_part(readme, "tree", source_tree()),
        DOCS / "scale.md": with_part(scale, "tables", tables()),
    }


def commands_page() -> str:
    """Every command with its arguments, options and examples, from the help that `keel` prints."""
    import typer.main

    import keel.cli
    from keel.cli.app import make_app

    group: Any = typer.main.get_command(make_app())
    commands = list(_commands_of(group))
    head = [
        "# Commands",
        "",
        "Made from the commands' own help by `python -m docs.make`; do not edit.",
        "",
        group.help,
        "",
        *_paragraphs(keel.cli.__doc__)[2:],
        "",
        *(f"- [keel {name}](#{_anchor(name)}): {_first_line(one.help)}" for name, one in commands),
    ]
    parts = [_command(name, one) for name, one in commands]
    return "\n".join([*head, "", "\n\n".join(parts), ""])


def source_tree() -> str:
    """What stands at the top of the package, each with the first sentence of its docstring."""
    entries = [
        *(path for path in sorted(SOURCE.glob("*.py")) if path.stem != "__init__"),
        *(path.parent for path in sorted(SOURCE.glob("*/__init__.py"))),
    ]
    lines = [f"  {_name(path):<16}{_purpose(path)}" for path in entries]
    return "\n".join(["```text", "src/keel/", *lines, "```"])


def with_part(page: str, name: str, made: str, command: str = "python -m docs.make") -> str:
    """The page with what the command made between the two marks of that name."""
    begins, ends = f"<!-- {name} begins: {command} -->", f"<!-- {name} ends -->"
    before, _, rest = page.partition(begins)
    _, _, after = rest.partition(ends)
    return f"{before}{begins}\n{made}\n{ends}{after}"


def _commands_of(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Each command under the words that call it; a command with commands below it comes first."""
    for name, command in group.commands.items():
        yield before + name, command
        if hasattr(command, "commands"):
            yield from _commands_of(command, f"{before}{name} ")


def _anchor(name: str) -> str:
    return f"keel-{name.replace(' ', '-')}"


def _command(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=f"keel {name}")
    given = command.get_params(context)
    arguments = [one for one in given if one.param_type_name == "argument"]
    options = [one for one in given if one.param_type_name == "option" and not one.hidden]
    wanted = [_placeholder(one) for one in arguments]
    parts = [
        [f"## keel {name}", ""],
        ["```text", " ".join([f"keel {name}", *wanted, "[OPTIONS]"]), "```", ""],
        [*_paragraphs(command.help), ""],
        [f"- `{_placeholder(one)}`: {_meaning(one, context)}" for one in arguments],
        [f"- `{_signature(one, context)}`: {_meaning(one, context)}" for one in options],
        ["", "```sh", *_examples(command.epilog), "```"],
    ]
    return "\n".join(line for part in parts for line in part)


def _placeholder(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _signature(option: Any, context: Any) -> str:
    return str(option.get_help_record(context)[0])


def _meaning(parameter: Any, context: Any) -> str:
    """The help on one line, its default and bounds in one pair of brackets."""
    return " ".join(str(parameter.get_help_record(context)[1]).split()).replace("] [", "; ")


def _examples(epilog: str | None) -> list[str]:
    lines = (line.strip() for line in (epilog or "").splitlines())
    return [line for line in lines if line.startswith("keel ")]


def _paragraphs(text: str | None) -> list[str]:
    """Paragraphs on one line each, an empty line between them."""
    joined = [" ".join(part.split()) for part in (text or "").strip().split("\n\n")]
    return [line for part in joined for line in (part, "")][:-1]


def _first_line(text: str | None) -> str:
    return _paragraphs(text)[0]


def _name(path: Path) -> str:
    return f"{path.name}/" if path.is_dir() else path.name


def _purpose(path: Path) -> str:
    file = path / "__init__.py" if path.is_dir() else path
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.splitlines()[0].split(". ")[0].rstrip(".")


if __name__ == "__main__":
    main()
