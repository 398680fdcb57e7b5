"""Whether Keel works on every type of model that transformers has, as `make matrix` shows it.

Each type is built tiny and random and examined in a process of its own, with a limit of time and
of memory. Progress goes to stderr; the table to docs/results/architectures.md, or as JSON.

    python -m benchmarks.matrix                      all types, and the page
    python -m benchmarks.matrix --only llama gemma3  some types, on stdout
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from benchmarks.children import Ended, ForkServer

PAGE = Path(__file__).parents[1] / "docs" / "results" / "architectures.md"
_LIMIT_S = 240
_LIMIT_BYTES = 10 << 30
_LANES = 2

Outcome = Literal["passes", "refused", "fails", "crashes", "not on text", "not built"]
MEANINGS: dict[Outcome, str] = {
    "passes": "every check of `keel.doctor.examine` passes",
    "refused": "Keel says that it cannot hold this model, and why",
    "fails": "something is other than it should be",
    "crashes": "an error that Keel did not foresee",
    "not on text": "transformers itself does not run it on text alone",
    "not built": "transformers cannot build it here from its default config",
}


@dataclass(frozen=True)
class TypeOutcome:
    """How the examination of one type ended."""

    model_type: str
    kind: str
    outcome: Outcome
    text: str
    """What is not as it should be; empty where every check passes."""
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when nothing fails or crashes, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="these types, and no page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there")
    given = parser.parse_args(arguments)
    outcomes = list(examined(given.only))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    if given.only is None:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    else:
        print("\n".join(_row(each) for each in outcomes))
    return int(any(each.outcome in ("fails", "crashes") for each in outcomes))


def examined(only: Sequence[str] | None = None) -> Iterator[TypeOutcome]:
    """The outcome of every type, or of some, in the order of the types' names."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from keel.testing import model_types

    kinds = model_types()
    wanted = sorted(only or kinds)
    # The server imports the libraries once; each type then starts from it, clean and quickly.
    server = ForkServer("keel.doctor", "keel.testing", "transformers.generation")

    def outcome_of(model_type: str) -> TypeOutcome:
        began = time.monotonic()
        ended = server.run(_examine, model_type, limit_s=_LIMIT_S)
        outcome, text = ("crashes", ended.reason) if isinstance(ended, Ended) else ended
        return TypeOutcome(
            model_type, kinds.get(model_type, ""), outcome, text, time.monotonic() - began
        )

    with ThreadPoolExecutor(_LANES) as lanes:
        for number, each in enumerate(lanes.map(outcome_of, wanted), 1):
            print(f"{number}/{len(wanted)} {_row(each)}", file=sys.stderr, flush=True)
            yield each


def page(outcomes: Sequence[TypeOutcome]) -> str:
    """The page with totals and a row per type."""
    import torch
    import transformers

    kinds = ("text", "image-text")
    totals = [
        f"| {outcome} | "
        + " | ".join(
            str(sum(o.outcome == outcome and o.kind == k for o in outcomes)) for k in kinds
        )
        + f" | {meaning} |"
        for outcome, meaning in MEANINGS.items()
    ]
    counts = " | ".join(str(sum(o.kind == kind for o in outcomes)) for kind in kinds)
    parts = [
        "# Architectures",
        "Whether Keel works on every type of model that transformers generates text with, or text "
        "from images and text: each built tiny and random in float32 on a CPU, and examined by "
        "`keel.doctor.examine` in a process of its own. Made by `make matrix`; do not edit.",
        f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, "
        f"{date.today().isoformat()}.",
        "| | text | image-text | |\n|---|---|---|---|\n"
        + "\n".join([*totals, f"| all | {counts} | |"]),
        "A type in both lists of transformers counts as text. An image-text type is given text "
        "alone. Of a type that does not pass, the table names the checks that do not, and the "
        "first one's reason.",
        "| type | kind | outcome | why |\n|---|---|---|---|\n" + "\n".join(map(_row, outcomes)),
    ]
    return "\n\n".join(parts) + "\n"


def _row(each: TypeOutcome) -> str:
    text = each.text.replace("|", "\\|").replace("\n", " ")
    return f"| {each.model_type} | {each.kind} | {each.outcome} | {text} |"


def _examine(model_type: str) -> tuple[Outcome, str]:
    """Outcome and reason; runs in the process of one type."""
    from transformers.utils import logging

    from keel.doctor import examine
    from keel.testing import shrunken_model, tiny_tokenizer

    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    with contextlib.redirect_stdout(sys.stderr):
        try:
            model = shrunken_model(model_type)
        except Exception as error:
            first = " ".join(str(error).split())[:300]
            return "not built", f"{type(error).__name__}: {first}"
        checks = examine(model, tiny_tokenizer()).checks
    unsound = [check for check in checks if check.status not in ("passed", "skipped")]
    statuses = {check.status for check in unsound}
    outcome: Outcome = "passes"
    if any(check.name == "runs by itself" for check in unsound):
        outcome = "not on text"
    elif statuses:
        outcome = (
            "crashes" if "crashed" in statuses else "fails" if "failed" in statuses else "refused"
        )
    text = f"{unsound[0].text[:600]}" if unsound else ""
    names = ", ".join(check.name for check in unsound)
    return outcome, f"{names}: {text}" if unsound else ""


if __name__ == "__main__":
    sys.exit(main())
