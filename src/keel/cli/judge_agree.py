"""keel judge agree: how far two judges agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keel.cli import console, results

if TYPE_CHECKING:
    from keel.judge import Agreement, LabelFile
    from keel.report import Section

EXAMPLES = """
Examples:

    keel judge agree runs/smollm2 likelihood heuristic

    keel judge agree runs/smollm2/evaluations/jailbreak heuristic mine.csv

    keel judge agree mine.csv yours.csv --json
"""


def agree(
    judges: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] A B",
            help="Two judges: files of verdicts, CSVs with id and label, or names of judges in "
            "the run or evaluation given first.",
            show_default=False,
        ),
    ],
    json: console.Json = False,
) -> None:
    """Compare two judges, or a judge and a person: agreement, Cohen's kappa, confusion table."""
    from keel.errors import UsageError
    from keel.judge import agree, comparable_labels, read_labels
    from keel.report import Account

    if len(judges) not in (2, 3):
        raise UsageError(
            f"{len(judges)} arguments are given, expected two judges' files, or a run and two "
            "judges of it: keel judge agree RUN likelihood heuristic"
        )
    if len(judges) == 2 and Path(judges[0]).is_dir():
        raise UsageError(
            f"{judges[0]} is a folder with one judge after it, expected two judges of it: keel "
            f"judge agree {judges[0]} {judges[1]} OTHER"
        )
    base = Path(judges[0]) if len(judges) == 3 else None
    a, b = (read_labels(_file(name, base)) for name in judges[-2:])
    labels_a, labels_b = comparable_labels(a, b)
    agreement = agree(
        labels_a,
        labels_b,
        confidences_a=a.confidences,
        confidences_b=b.confidences,
    )
    if json:
        console.print_json({"a": a.name, "b": b.name, **console.plain(agreement)})
        return
    results.print_account(Account("", "", (), (_section(agreement, a, b),)))


def _file(name: str, base: Path | None) -> Path:
    """The file of a judge's labels, given its path, or its name below the run or evaluation."""
    from keel.errors import MissingArtifactError, UsageError

    if base is None or Path(name).is_file():
        return Path(name)
    folders = [base / "judgements", base / "verdicts"]
    there = sorted(file for folder in folders for file in folder.glob("*.jsonl"))
    named = [f for f in there if f.stem == name] or [f for f in there if f.stem.startswith(name)]
    if len(named) == 1:
        return named[0]
    known = ", ".join(file.stem for file in there) or "none"
    if named:
        raise UsageError(
            f"{name!r} fits {len(named)} judges of {base}: "
            f"{', '.join(file.stem for file in named)}; write more of the name"
        )
    raise MissingArtifactError(f"{base} has no judge {name!r}, and no file is so called; {known}")


def _section(agreement: Agreement, a: LabelFile, b: LabelFile) -> Section:
    from keel.report import Section, Table
    from keel.words import percent

    words = [
        f"A is `{a.name}`, B is `{b.name}`. Both labelled {agreement.n}; only A "
        f"{agreement.only_a}, only B {agreement.only_b}.",
        f"Agreement: {agreement.agreement.text(percent)} of the answers that both labelled.",
        "There is no Cohen's κ: both gave one and the same label throughout."
        if agreement.kappa is None
        else f"Cohen's κ: {agreement.kappa.text()}.",
        "Where all answers are of a few personas, intervals are wider than they need be.",
    ]
    for judge, error in (
        ("A", agreement.calibration_error_a),
        ("B", agreement.calibration_error_b),
    ):
        if error is not None:
            words.append(
                f"Confidence of {judge} is off by {percent(error)} on average, were the other "
                "right."
            )
    rows = tuple(
        (label, *map(str, row))
        for label, row in zip(agreement.labels, agreement.table, strict=True)
    )
    table = Table("A's labels in rows, B's in columns", ("", *agreement.labels), rows)
    return Section("agreement", "Agreement of two judges", tuple(words), tables=(table,))
