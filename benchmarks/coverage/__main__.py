"""How often Keel's intervals hold the truth, as `make coverage` writes it into docs/statistics.md.

python -m benchmarks.coverage              all studies, and their tables
python -m benchmarks.coverage --only maps  the studies of one group, and its table alone
python -m benchmarks.coverage --draws 50   a quick look, on stdout
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.coverage import alarms, items, maps, marks, prices, ranks, talks
from benchmarks.coverage.studies import Row, Study
from docs.make import with_part

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
COMMAND = "python -m benchmarks.coverage"
GROUPS = (
    "evaluations",
    "judges",
    "maps",
    "roles",
    "comparisons",
    "prices",
    "marks",
    "alarms",
    "replays",
    "conversations",
    "messages",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, whatever was measured."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--only", metavar="GROUP", help="of: " + ", ".join(GROUPS))
    parser.add_argument("--draws", type=int, help="draws of each study; else its own number")
    given = parser.parse_args(arguments)
    for group in GROUPS if given.only is None else [given.only]:
        studies = [study for study in all_studies() if study.group == group]
        made = table(list(_measured(studies, given.draws)))
        if given.draws is None:
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(with_part(page, group, made, COMMAND), encoding="utf-8")
        else:
            print(made)
    return 0


def all_studies() -> Iterator[Study]:
    """The studies of every group."""
    for module in (items, maps, ranks, prices, marks, alarms, talks):
        yield from module.studies()


def _measured(studies: Sequence[Study], draws: int | None) -> Iterator[Row]:
    for number, study in enumerate(studies, 1):
        started = time.monotonic()
        yield from study.run(draws)
        spent_s = time.monotonic() - started
        print(f"{number}/{len(studies)} {study.design}: {spent_s:.0f} s", file=sys.stderr)


def table(rows: Sequence[Row]) -> str:
    """A line for each statistic, a column for each design, and how many rows are off."""
    designs = list(dict.fromkeys(row.design for row in rows))
    lines = [f"| | {' | '.join(designs)} |", "|---" * (1 + len(designs)) + "|"]
    for statistic in dict.fromkeys(row.statistic for row in rows):
        cells = {row.design: _cell(row) for row in rows if row.statistic == statistic}
        named = statistic.replace("|", "\\|")
        lines.append(f"| {named} | {' | '.join(cells.get(design, '') for design in designs)} |")
    met = sum(row.is_met for row in rows)
    return "\n".join([*lines, "", f"{met} of {len(rows)} are as they should be."])


def _cell(row: Row) -> str:
    if not row.given:
        return "not stated"
    share = f"{100 * row.share:.1f} ± {100 * row.error:.1f}"
    share = share if row.is_met else f"**{share}**"
    return share if row.given == row.draws else f"{share}; {row.draws - row.given} not stated"


if __name__ == "__main__":
    sys.exit(main())
