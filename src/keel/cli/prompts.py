"""keel prompts: look into the library of roles, traits and questions; check, price, extend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from keel.cli import console
from keel.cli.extract import SCALES
from keel.cli.help import PlainCommand, PlainGroup
from keel.cli.options import Given, takes
from keel.settings import ExtractSettings, Scale, ThroughputSettings

if TYPE_CHECKING:
    from keel.prompts import Price

Listed = Literal["roles", "traits", "questions"]

EXAMPLES = """
Examples:

    keel prompts

    keel prompts show pirate

    keel prompts search lighthouse
"""
LIST_EXAMPLES = """
Examples:

    keel prompts list roles

    keel prompts list questions --json
"""
SHOW_EXAMPLES = """
Examples:

    keel prompts show coral_reef
"""
SEARCH_EXAMPLES = """
Examples:

    keel prompts search "old friend"
"""
VALIDATE_EXAMPLES = """
Examples:

    keel prompts validate roles/

    keel prompts validate mine/ --cosine
"""
COUNT_EXAMPLES = """
Examples:

    keel prompts count --json
"""


PRICE_EXAMPLES = """
Examples:

    keel prompts price --scale paper --tokens-per-s 4000

    keel prompts price --what both --role-count 50 --question-count 24 --json
"""
GENERATE_EXAMPLES = """
Examples:

    keel prompts generate role clockmaker "Mends clocks, distrusts hurry." --kind professional \
--model my-model --base-url http://localhost:8000/v1 -o roles/
"""
UNPRICED = (
    *("--seed", "--choice-seed", "--temperature", "--keep"),
    *("--label", "--min-count", "--min-pairs"),
)
"""Options of an extraction that change no price."""


class CountsFirst(PlainGroup):
    """A group of commands that runs `count` where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with `count` put before them where they name no command."""
        is_command = bool(args) and (not args[0].startswith("-") or {"-h", "--help"} & {*args})
        return super().parse_args(ctx, args if is_command else ["count", *args])


app = typer.Typer(
    cls=CountsFirst,
    help="Look into Keel's library of roles, traits, questions and evaluation prompts; check and "
    "price your own.\n\nAlone, or with `--json` alone, it counts.",
    rich_markup_mode=None,
)


@app.command("count", cls=PlainCommand, epilog=COUNT_EXAMPLES)
def count(json: console.Json = False) -> None:
    """Count roles, traits, questions and evaluation prompts; list kinds of role and topics."""
    from keel.prompts import load_library, shipped_counts

    if json:
        console.print_json(shipped_counts())
        return
    for name, number in shipped_counts().items():
        console.stdout.print(f"{name.replace('_', ' '):<26}{number:>6}")
    library = load_library()
    _print(f"\n[b]Kinds of role[/b]: {_tally(role.kind for role in library.roles)}")
    _print(f"[b]Topics[/b]: {_tally(question.topic for question in library.questions)}")


@app.command("list", cls=PlainCommand, epilog=LIST_EXAMPLES)
def list_(
    what: Annotated[Listed, typer.Argument(help="roles, traits or questions.")],
    json: console.Json = False,
) -> None:
    """List the roles with their kind, the traits, or the questions with their topic."""
    from keel.prompts import load_library

    library = load_library()
    if json:
        console.print_json(getattr(library, what))
        return
    lines: dict[str, list[tuple[str, str, str]]] = {
        "roles": [(role.name, role.kind, role.description) for role in library.roles],
        "traits": [(trait.name, "", trait.description) for trait in library.traits],
        "questions": [(question.topic, "", question.text) for question in library.questions],
    }
    for name, kind, text in lines[what]:
        _print(f"[b]{escape(name):<22}[/b] {kind + '  ':<14}{escape(text)}")


@app.command("show", cls=PlainCommand, epilog=SHOW_EXAMPLES)
def show(
    name: Annotated[str, typer.Argument(help="Name of a role or trait.")],
    json: console.Json = False,
) -> None:
    """Read a role or trait whole: its prompts, and the rubric that judges its answers."""
    from keel.errors import UsageError
    from keel.prompts import load_library

    library = load_library()
    roles = [role for role in library.roles if role.name == name]
    traits = [trait for trait in library.traits if trait.name == name]
    if not roles and not traits:
        named = [role.name for role in library.roles] + [trait.name for trait in library.traits]
        near = difflib.get_close_matches(name, named, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "list them: keel prompts list"
        raise UsageError(f"no role or trait is called {name!r}; {hint}")
    if json:
        console.print_json({"roles": roles, "traits": traits})
        return
    for role in roles:
        _print(f"[b]{escape(role.name)}[/b], {role.kind}: {escape(role.description)}")
        for number, text in enumerate(role.system_prompts, start=1):
            _print(f"  {number}. {escape(text)}")
        _print(f"  [dim]rubric[/dim] {escape(role.rubric)}")
    for trait in traits:
        _print(f"[b]{escape(trait.name)}[/b], trait: {escape(trait.description)}")
        for number, pair in enumerate(trait.pairs, start=1):
            _print(f"  {number}. + {escape(pair.encourage)}")
            _print(f"     − {escape(pair.discourage)}")
        _print(f"  [dim]rubric[/dim] {escape(trait.rubric)}")


@app.command("search", cls=PlainCommand, epilog=SEARCH_EXAMPLES)
def search(
    words: Annotated[list[str], typer.Argument(help="What shall all occur, in any case.")],
    json: console.Json = False,
) -> None:
    """Find every text that holds all of these words, in the library and the evaluation sets."""
    from keel.prompts import shipped_texts

    wanted = [word.lower() for word in words]
    matches = [
        entry
        for entry in shipped_texts()
        if all(word in f"{entry.location} {entry.text}".lower() for word in wanted)
    ]
    if json:
        console.print_json(matches)
        return
    for entry in matches:
        _print(f"[b]{escape(entry.location)}[/b]: {escape(entry.text)}")
    console.stderr.print(f"{len(matches)} found")


@app.command("validate", cls=PlainCommand, epilog=VALIDATE_EXAMPLES)
def validate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a library.")],
    cosine: Annotated[
        bool, typer.Option("--cosine", help="Compare what the texts say, too: a minute or two.")
    ] = False,
    json: console.Json = False,
) -> None:
    """Check your own roles, traits and questions as Keel's are checked; exit 3 if some fail."""
    from keel.errors import UsageError
    from keel.prompts import find_faults, find_twins, load_embedder, read_library

    library = read_library(folder)
    faults = find_faults(library)
    if cosine:
        with console.waiting("comparing what the texts say"):
            faults += find_twins(library, load_embedder())
    counts = {
        "roles": len(library.roles),
        "role_prompts": sum(len(role.system_prompts) for role in library.roles),
        "traits": len(library.traits),
        "trait_pairs": sum(len(trait.pairs) for trait in library.traits),
        "questions": len(library.questions),
    }
    if json:
        console.print_json({**counts, "valid": not faults, "faults": faults})
    else:
        console.stdout.print(
            ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items())
        )
        for fault in faults:
            _print(f"{escape(fault.location)}: {escape(fault.complaint)}")
    if faults:
        raise UsageError(f"{folder} has {len(faults)} faults; mend them in its files")


@app.command("price", cls=PlainCommand, epilog=PRICE_EXAMPLES)
@takes(SCALES, ThroughputSettings(), without=UNPRICED)
def price(
    scale: Annotated[
        Scale, typer.Option(help="One dial: a minute, an hour, or the paper in full.")
    ] = "paper",
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Price a run before a model is loaded: answers, tokens and hours, all at the most.

    `keel extract --dry-run` prices one on a given model, with its batches and its disk.
    """
    from keel.prompts import load_library, price_roles, price_traits

    settings = given.over(ExtractSettings.at_scale(scale))
    library, tokens = load_library(), settings.sampling.max_new_tokens
    parts = price_roles(library, settings.prompts, tokens) if settings.what != "traits" else []
    if settings.what != "roles":
        parts = [*parts, price_traits(library, settings.prompts, tokens)]
    _print_price(parts, given.over(ThroughputSettings()).tokens_per_s, json)


@app.command("generate", cls=PlainCommand, epilog=GENERATE_EXAMPLES)
def generate(
    what: Annotated[Literal["role", "trait"], typer.Argument(help="role or trait.")],
    name: Annotated[str, typer.Argument(help="Small letters, as in coral_reef.")],
    description: Annotated[str, typer.Argument(help="One line: who or what it is.")],
    model: Annotated[str, typer.Option(help="Name by which the endpoint knows its model.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write to.")],
    base_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible server.")
    ] = None,
    kind: Annotated[str, typer.Option(help="Kind of a role, such as professional.")] = "",
    json: console.Json = False,
) -> None:
    """Let a language model write a new role or trait, and check it as Keel's own are checked.

    Any OpenAI-compatible endpoint will do; its key is read from OPENAI_API_KEY.
    """
    from keel.prompts import PromptBrief, generate_role, generate_trait, open_endpoint, save_prompts

    wanted = PromptBrief(name, description, kind)
    write = generate_role if what == "role" else generate_trait
    with open_endpoint(model, base_url=base_url) as ask, console.waiting(f"{model} is writing"):
        made = write(wanted, ask)
    path = save_prompts(made, out)
    if json:
        console.print_json({"path": path, what: made})
        return
    console.stdout.print(f"[b]{escape(str(path))}[/b]", soft_wrap=True)


def _tally(names: Iterable[str]) -> str:
    from collections import Counter

    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


def _print(line: str) -> None:
    """Prints a text on one line, however long, so that other tools can search the output."""
    console.stdout.print(line, soft_wrap=True)


def _print_price(parts: list[Price], tokens_per_s: float | None, json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "what": part.what,
            "characters": part.characters,
            "questions": part.questions,
            "prompts": part.prompts_per_question,
            "answers": part.answers,
            "new_tokens": part.new_tokens,
            "hours": None if tokens_per_s is None else part.hours(tokens_per_s),
        }
        for part in parts
    ]
    total = {key: sum(row[key] for row in rows) for key in ("answers", "new_tokens")}
    hours = None if tokens_per_s is None else sum(row["hours"] for row in rows)
    if json:
        console.print_json({"parts": rows, **total, "hours": hours})
        return
    for row in rows:
        console.stdout.print(
            f"{row['what']:<9}{row['characters']} × {row['questions']} questions × "
            f"{row['prompts']} prompts = {row['answers']:,} answers, {row['new_tokens']:,} tokens"
        )
    end = "" if hours is None else f", {hours:,.1f} hours at {tokens_per_s:g} per second"
    console.stdout.print(
        f"[b]in all[/b]   {total['answers']:,} answers, {total['new_tokens']:,} tokens at most{end}"
    )
