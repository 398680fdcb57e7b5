"""keel doctor: whether Keel works on a model, on one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console
from keel.cli.options import Given, takes
from keel.settings import DoctorSettings

if TYPE_CHECKING:
    from keel.doctor import Check, Examination

EXAMPLES = """
Examples:

    keel doctor smollm2

    keel doctor ./my-model --blocks model.decoder.layers

    keel doctor ./my-model.gguf --json

    keel doctor ./config-and-tokenizer --shape-only
"""

_MEANINGS = {
    "runs by itself": "the model reads plain text, without Keel",
    "opens": "Keel takes it: a list of blocks, one stream through them, a chat template",
    "blocks": "the decoder's layers, counted from 0; their outputs are read and moved",
    "stream is the model's own": "what Keel reads there is what transformers calls hidden states",
    "cap holds": "under a floor, the model predicts what equation 1 by hand makes it predict",
    "model is restored": "after a cap it predicts as before, to the bit",
    "cached equals uncached": "an answer is not changed by keeping keys and values",
    "padded equals alone": "an answer is not changed by the prompts beside it",
    "rows may end early": "short answers leave a batch without disturbing long ones",
    "generated equals read": "what is recorded of an answer is what reading it gives",
    "read equals plain": "conversations are read as the model sees them",
    "token masks": "a cap can be kept to the prompt, or to what is generated",
    "template": "what the chat template puts in by itself; roles are given as system prompts",
    "answers' borders": "the tokens of an answer begin and end with its text",
    "context": "what is longer is refused with the numbers",
}
"""What a check's name says, for somebody who has never seen Keel."""

_MARKS = {
    "passed": "[green]✓[/green]",
    "skipped": "[dim]–[/dim]",
    "refused": "[yellow]✗[/yellow]",
    "failed": "[red]✗[/red]",
    "crashed": "[red]✗[/red]",
}
_ADVICE = {
    "refused": "Not supported; the line says what to do, where something can be done.",
    "failed": "Something comes out wrong. Keel's numbers on this model are not to be trusted: "
    "report it with this page.",
    "crashed": "An error that Keel did not foresee: report it with this page.",
}


@takes(DoctorSettings())
def doctor(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Alias (smollm2), hub id, folder (an adapter's, too) or .gguf file.",
            show_default=False,
        ),
    ],
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Say whether Keel works on a model, check by check, before a run is begun on it.

    The model is run in every way that Keel runs it (capped, cached, in padded batches, read again)
    and held against plain passes, some 150 short ones; then its chat template and its context are
    looked at. Ends with 0 where all holds, else with 3.
    """
    from keel.doctor import CHECK_NAMES, examine

    settings = given.over(DoctorSettings())
    with console.waiting(f"loading {model}"):
        subject, tokenizer = _loaded(model, settings)
    with console.progress() as progress:
        total, ended = len(CHECK_NAMES), iter(range(1, len(CHECK_NAMES) + 1))
        examination = examine(
            subject,
            tokenizer,
            blocks=settings.load.blocks,
            on_check=lambda _: progress("checking", next(ended), total),
        )
    if json:
        console.print_json(_record(model, examination))
    else:
        _print_page(model, examination, settings)
    if not examination.is_sound:
        raise typer.Exit(3)


def _loaded(model: str, settings: DoctorSettings) -> tuple[Any, Any]:
    """The model that is examined, or a small random one of its architecture, and its tokenizer."""
    from keel.doctor import shrunken_like
    from keel.engines.transformers import load_config, load_model

    if not settings.is_shape_only:
        loaded = load_model(model, settings.load)
        return loaded.model, loaded.tokenizer
    shape = load_config(model, settings.load)
    trusted = settings.load.trust_remote_code
    return shrunken_like(shape.config, trust_remote_code=trusted), shape.tokenizer


def _record(model: str, examination: Examination) -> dict[str, object]:
    """The page as JSON values."""
    return {
        "model": model,
        "class": examination.model,
        "is_sound": examination.is_sound,
        "checks": [{**console.plain(c), "meaning": _MEANINGS[c.name]} for c in examination.checks],
    }


def _print_page(model: str, examination: Examination, settings: DoctorSettings) -> None:
    """Every check with its meaning and what was seen; last, what follows from them."""
    out = console.stdout
    shape = ", small and with random weights" if settings.is_shape_only else ""
    out.print(f"[b]{escape(model)}[/b], {examination.model}{shape}\n")
    for check in examination.checks:
        line = f"{_MARKS[check.status]} [b]{check.name}[/b]: {_MEANINGS[check.name]}"
        out.print(line, soft_wrap=True)
        style = None if _is_bad(check) else "dim"
        out.print(f"  {escape(check.text)}", style=style, soft_wrap=True)
    bad = [check for check in examination.checks if _is_bad(check)]
    if not bad:
        out.print("\n[green]Keel works on this model.[/green]")
        out.print(f"Next: [b]keel extract {escape(model)} -o runs/mine[/b]", soft_wrap=True)
        return
    names = ", ".join(check.name for check in bad)
    out.print(f"\n[red]Keel does not work on this model as it is[/red]: {names}.")
    if bad[0].name == "runs by itself":
        out.print("The model does not run without Keel either: mend its folder as the line says.")
        return
    for status, advice in _ADVICE.items():
        if any(check.status == status for check in bad):
            out.print(advice)


def _is_bad(check: Check) -> bool:
    return check.status not in ("passed", "skipped")
