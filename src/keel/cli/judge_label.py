"""keel judge label: a person labels answers, one by one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.panel import Panel

from keel.cli import console
from keel.cli.options import Given, takes
from keel.settings import LabelSettings

if TYPE_CHECKING:
    from keel.judge import LabellingSession
    from keel.types import Case, Rubric

EXAMPLES = """
Examples:

    keel judge label runs/smollm2 --limit 100

    keel judge label runs/smollm2/evaluations/jailbreak -o mine.csv
"""


@takes(LabelSettings())
def label(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A run, or one of its evaluations.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="CSV", help="Where labels go; else NAME-labels.csv."),
    ] = None,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Label answers one by one, in random order, without seeing what any judge said.

    A label's number or name, and after it whatever note you like. `u` takes the last one back,
    `q` stops; called again with the same file, it goes on. Then: keel judge agree.
    """
    from keel.judge import LabellingSession
    from keel.prompts import read_rubrics

    settings = given.over(LabelSettings())
    rubrics = read_rubrics(settings.rubrics)
    of_evaluation = (path / "items.jsonl").exists()
    cases, rubric = (_cases_of_evaluation if of_evaluation else _cases_of_run)(path, rubrics)
    out = Path(f"{path.resolve().name}-labels.csv") if out is None else out
    session = LabellingSession(cases, rubric, out, limit=settings.limit, seed=settings.seed)
    _ask_all(session)
    left = len(session.cases) - session.count_done
    if json:
        console.print_json({"file": out, "labelled": session.count_done, "left": left})
        return
    console.stdout.print(f"{session.count_done} labelled, {left} left: [b]{escape(str(out))}[/b]")


def _cases_of_run(path: Path, known: dict[str, Rubric]) -> tuple[list[Case], Rubric]:
    from keel.judge import HeuristicGrader, RubricJudge
    from keel.prompts import load_library
    from keel.store import open_run

    played = [rollout for rollout in open_run(path).rollouts() if rollout.prompt.is_role]
    texts = {role.name: (role.description, role.rubric) for role in load_library().roles}
    judge = RubricJudge(HeuristicGrader(), known["role"], known["trait"], texts, {})
    return [case for _, cases in judge.cases(played) for case in cases], known["role"]


def _cases_of_evaluation(path: Path, known: dict[str, Rubric]) -> tuple[list[Case], Rubric]:
    from keel.errors import UsageError
    from keel.evaluate import cases_of
    from keel.store import EvaluationFolder, RunFolder

    whole = path.resolve()
    folder = EvaluationFolder(RunFolder(whole.parents[1]), whole.name)
    name = str(folder.plan.settings.get("rubric", ""))
    if name not in known:
        raise UsageError(
            f"{path} was judged by the rubric {name!r}, which is not among "
            f"{', '.join(known)}; give its file (--rubrics)"
        )
    answers = {arm.name: folder.answers(arm.name) for arm in folder.arms()}
    return cases_of(folder.items(), answers), known[name]


def _ask_all(session: LabellingSession) -> None:
    """Shows one answer after the other until all are labelled or `q` is typed."""
    from keel.errors import UsageError

    while (case := session.current) is not None:
        _show(session, case)
        console.stderr.print("> ", end="")
        line = sys.stdin.readline()  # empty at the end of the input
        said = line.strip()
        if not line or said == "q":
            return
        if said == "u":
            if not session.undo():
                console.stderr.print("nothing to take back")
            continue
        try:
            session.give(*_label_and_note(session, said))
        except UsageError as error:
            console.stderr.print(escape(str(error)))


def _show(session: LabellingSession, case: Case) -> None:
    """Prints the answer on stderr, since stdout is for the result."""
    say = console.stderr.print
    say(f"\n[dim]{session.count_done + 1} of {len(session.cases)}[/dim]")
    for message in case.conversation.messages[:-1]:
        say(f"[dim]{message.speaker}[/dim] {escape(message.content)}")
    answer = case.conversation.messages[-1].content
    say(Panel(escape(answer) or "[dim](empty)[/dim]", title="answer", title_align="left"))
    for name in ("role", "description", "role_rubric", "good_answer"):
        if case.fields.get(name):
            say(f"[dim]{name.replace('_', ' ')}[/dim] {escape(case.fields[name])}")
    if not session.labels:
        say(f"a whole number from {session.rubric.low} to {session.rubric.high}, u, or q")
    for number, label in enumerate(session.rubric.labels, start=_first(session)):
        name = "" if label.name == str(number) else f"[b]{label.name}[/b] "
        say(f"[b]{number}[/b] {name}[dim]{escape(label.meaning)}[/dim]")


def _first(session: LabellingSession) -> int:
    """The first label's number: 0 where labels are numbers themselves, else 1."""
    return 0 if session.labels[0] == "0" else 1


def _label_and_note(session: LabellingSession, said: str) -> tuple[str, str]:
    word, _, note = said.partition(" ")
    if session.labels and word.isdigit():
        index = int(word) - _first(session)
        if 0 <= index < len(session.labels):
            return session.labels[index], note
    return word, note
