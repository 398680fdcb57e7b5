"""A judge's reply -> the one label or number that it names, or nothing.

Strict: a reply that can be read in two ways is not read. What is not read is asked again, and
counted; what is read wrongly is never found out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keel.judge.prompting import LABEL, SCORE
from keel.types import Rubric

_LONGEST_SENTENCE = 40
"""Words. In a longer reply a label may be named in passing: it must then stand on a line or in an
object of its own."""

_FENCE = re.compile(r"^```\w*\n?|```$")
_DECLARED = re.compile(
    r"""^["'*_`#\s]*(?:(?:my|the|final|overall)\s+)*(?:label|score|verdict|rating|grade|answer)"""
    r"""["'*_`]*(?:\s+is)?\s*[:=]?["'*_`\s]*(?P<value>[^\n]+)$""",
    re.IGNORECASE | re.MULTILINE,
)
_CLAUSE_END = re.compile(r"[.;:!?\n]|\b(?:but|so|therefore|hence|thus)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|cannot|without|lacks?|hardly|barely|scarcely|unlikely|instead of"
    r"|rather than|far from|free of|less than|more than|other than|no longer)\b|n't\b|\bno\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"""["'*_`)]*\s*(?:[?:=]\s*|(?:is|was|would|does|do|did)\s*)?"""
    r"(?:not|no|never|false|absent|n't|isn't|wasn't|doesn't|wouldn't)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.,])-?\d+(?:[.,]\d+)*(?![\w])")


def read_reply(text: str, rubric: Rubric) -> str | None:
    """The label's name, or the number as text; None where the reply names none, or several.

    Taken, in this order: a JSON object that opens or ends the reply; the label or number alone; a
    line such as "Score: 2"; a short sentence that names one label or number and does not deny it.
    Numbers off the scale, fractions, and the ends of the scale itself are no answers.
    """
    said = _cleaned(text)
    objects = list(_objects(said))
    if objects:
        return _agreed(_of_object(record, rubric) for record in objects)
    alone = _alone(said, rubric)
    if alone is not None or said.startswith("{"):
        return alone
    declared = [match["value"] for match in _DECLARED.finditer(said)]
    names = [name for value in declared if (name := _alone(value, rubric)) is not None]
    if names:
        return _agreed(names)
    return _agreed(_named(said, rubric)) if len(said.split()) <= _LONGEST_SENTENCE else None


def _cleaned(text: str) -> str:
    """The reply without thinking and code fences, with plain quotes and minus signs."""
    if "<think>" in text and "</think>" not in text:
        return ""  # cut off while it was thinking
    said = text.rpartition("</think>")[2].strip()
    said = _FENCE.sub("", said).strip()
    return said.translate(str.maketrans("’‘“”−", "''\"\"-"))


def _agreed(values: Iterable[str | None]) -> str | None:
    """The one value that all give; None where there is none, or where they differ."""
    given = set(values)
    return given.pop() if len(given) == 1 else None


def _objects(said: str) -> Iterator[dict[str, Any]]:
    """JSON objects that open or end the reply."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", said):
        try:
            value, end = decoder.raw_decode(said, match.start())
        except (ValueError, RecursionError):
            continue
        is_at_an_end = match.start() == 0 or not said[end:].strip("`.\n ")
        if isinstance(value, dict) and is_at_an_end:
            yield value


def _of_object(record: dict[str, Any], rubric: Rubric) -> str | None:
    wanted, other = (LABEL, SCORE) if rubric.labels else (SCORE, LABEL)
    by_key = {key.strip().lower(): value for key, value in record.items()}
    value = by_key.get(wanted, by_key.get(other))
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return _alone(str(value), rubric)


def _alone(said: str, rubric: Rubric) -> str | None:
    """The label or number that the text consists of, marks around it aside."""
    numbers = _scale(rubric)
    if numbers:
        return _on_scale(_without_scale(said, numbers).strip(" \n\t\"'*_`.()[]"), numbers)
    plain = _plain(said)
    names = [label.name for label in rubric.labels if _plain(label.name) == plain]
    return names[0] if len(names) == 1 else None


def _plain(text: str) -> str:
    """Letters and digits alone, for `Non-human.` and `nonhuman` to be the same."""
    return re.sub(r"[\W_]+", "", text.casefold())


def _scale(rubric: Rubric) -> Sequence[int]:
    """Numbers that are answers, rising, where answers are numbers; labels may be numbers too."""
    if not rubric.labels:
        return rubric.scale
    names = [label.name for label in rubric.labels]
    is_numbers = all(re.fullmatch(r"-?\d+", name) for name in names)
    return sorted(int(name) for name in names) if is_numbers else ()


def _without_scale(said: str, numbers: Sequence[int]) -> str:
    """`On a scale from 0 to 3, this scores 2/3` -> `On a scale , this scores 2`."""
    low, high = numbers[0], numbers[-1]
    ends = rf"(?:from\s+|between\s+)?(?<![\w.-]){low}\s*(?:to|through|and|\.\.\.?|[-–—])\s*{high}\b"
    said = re.sub(rf"{ends}(?!\.\d)", " ", said, flags=re.IGNORECASE)
    return re.sub(
        rf"(?<=\d)\s*(?:/|out\s+of|of)\s*{high}\b(?!\.\d)", " ", said, flags=re.IGNORECASE
    )


def _on_scale(number: str, numbers: Sequence[int]) -> str | None:
    """The number as it is written in verdicts; None where it is none of the scale's."""
    match = re.fullmatch(r"(-?\d+)(?:\.0+)?", number)
    return str(int(match[1])) if match and int(match[1]) in numbers else None


def _named(said: str, rubric: Rubric) -> Iterator[str | None]:
    """What a sentence names and does not deny; None for a number that is off the scale."""
    numbers = _scale(rubric)
    if numbers:
        said = _without_scale(said, numbers)
        for match in _NUMBER.finditer(said):
            if not _is_denied(said, match):
                yield _on_scale(match[0], numbers)
        return
    for name in (label.name for label in rubric.labels):
        if any(not _is_denied(said, match) for match in _mention(name).finditer(said)):
            yield name


def _mention(name: str) -> re.Pattern[str]:
    """Finds a label in prose: `harmful_mild` as `harmful mild`, `nonhuman` as `non-human`."""
    words = [re.escape(word) for word in re.split(r"[\W_]+", name) if word]
    pattern = r"[\s_-]+".join(words)
    pattern = re.sub(r"^(non)(?=[a-z])", r"\1[\\s-]?", pattern, flags=re.IGNORECASE)
    return re.compile(rf"(?<![\w-])(?<!\bnon\s){pattern}(?![\w-])", re.IGNORECASE)


def _is_denied(said: str, match: re.Match[str]) -> bool:
    """Whether the clause denies what it names: `not harmful`, `harmful? No`."""
    before = _CLAUSE_END.split(said[: match.start()])[-1]
    return bool(_NEGATION.search(before) or _DENIED.match(said, match.end()))
