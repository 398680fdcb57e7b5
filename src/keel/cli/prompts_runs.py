"""keel prompts price and generate: what a run would cost, and roles that the library lacks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console
from keel.cli.extract import Scale, What

if TYPE_CHECKING:
    from keel.prompts import Price

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


class Written(StrEnum):
    """What can be written anew."""

    role = "role"
    trait = "trait"


def price(
    what: Annotated[What, typer.Option(help="What the run answers as.")] = What.roles,
    scale: Annotated[Scale, typer.Option(help="One dial for all sizes below.")] = Scale.paper,
    role_count: Annotated[int | None, typer.Option(help="Roles to take.", min=1)] = None,
    trait_count: Annotated[int | None, typer.Option(help="Traits to take.", min=1)] = None,
    question_count: Annotated[int | None, typer.Option(help="Questions to take.", min=1)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    tokens_per_s: Annotated[
        float | None, typer.Option(help="Speed of the engine over all its answers at once.")
    ] = None,
    json: console.Json = False,
) -> None:
    """Price a run before a model is loaded: answers, tokens and hours, all at the most.

    `keel extract --dry-run` prices one on a given model, with its batches and its disk.
    """
    from dataclasses import replace

    from keel.pipeline import ExtractSettings
    from keel.prompts import load_library, price_roles, price_traits

    given = ExtractSettings.at_scale(scale.value)
    counts = {"roles": role_count, "traits": trait_count, "questions": question_count}
    settings = replace(given.prompts, **{k: v for k, v in counts.items() if v is not None})
    tokens = given.sampling.max_new_tokens if max_new_tokens is None else max_new_tokens
    library = load_library()
    parts = price_roles(library, settings, tokens) if what is not What.traits else []
    if what is not What.roles:
        parts = [*parts, price_traits(library, settings, tokens)]
    _print_price(parts, tokens_per_s, json)


def generate(
    what: Annotated[Written, typer.Argument(help="role or trait.")],
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
    from keel.prompts import Wanted, generate_role, generate_trait, open_endpoint, save_prompts

    wanted = Wanted(name, description, kind)
    write = generate_role if what is Written.role else generate_trait
    with open_endpoint(model, base_url=base_url) as ask, console.waiting(f"{model} is writing"):
        made = write(wanted, ask)
    path = save_prompts(made, out)
    if json:
        console.print_json({"path": path, what.value: made})
        return
    console.stdout.print(f"[b]{escape(str(path))}[/b]", soft_wrap=True)


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
