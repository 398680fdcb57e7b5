"""Parts what a model thought from what it answered. Knows delimiters, no model by name.

The delimiters are those of open models' templates, and whatever a template of one's own writes
around the thinking of a message that has it in a field of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_FIRST = r"\A\s*"
"""Of an opening made of ordinary words: it is meant only where a text begins with it."""
_QUOTES = tuple("`'\"“‘")
"""A delimiter behind one of these is spoken of, not used."""
_WORD = "(?:think|thinking|thoughts?|reasoning)"
_NAME = rf"(?!(?:start|begin|end)_)(?:\w+[:_])?{_WORD}(?::\w+)?"
_ASIDE = r"<\|channel\|>(?:analysis|commentary)<\|message\|>"
_ANSWER = "(?:response|answer|output|solution|conclusion)"
_BEGUN = rf"(?:(?:start|begin)(?:_of)?_)(?:{_WORD}|working_out)"
_ENDED = rf"end(?:_of)?_(?:{_WORD}|working_out)"


@dataclass(frozen=True)
class Delimiters:
    """What stands before and behind thinking, as regular expressions."""

    opening: str
    closing: str
    only_paired: bool = False
    """Whether the closing, being made of ordinary words, is meant only behind the opening."""

    @classmethod
    def literal(cls, opening: str, closing: str) -> Delimiters:
        """Delimiters that are written exactly so, but for white space at their ends."""
        return cls(re.escape(opening.strip()), re.escape(closing.strip()))


_KNOWN = (
    # DeepSeek, Qwen, GLM, Seed (seed:think), MiniMax (mm:think), Hunyuan (think:opensource),
    # EXAONE, LongCat (longcat_think), Marco (Thought); recipes of GRPO (start_working_out)
    Delimiters(
        rf"(?i:<(?:{_NAME}(?:\s+\w+=[^<>]*)?|{_BEGUN}|{_WORD}_start)>)",
        rf"(?i:<(?:/{_NAME}|{_ENDED}|{_WORD}_end)>)",
    ),
    Delimiters(  # Magistral, Ministral
        r"\[(?:THINK|THINKING|THOUGHTS?|REASONING)\]",
        r"\[/(?:THINK|THINKING|THOUGHTS?|REASONING)\]",
    ),
    # Command A (START_THINKING), OpenThinker, Sky-T1 (begin_of_thought), Solar Open (think)
    Delimiters(
        rf"(?i:<[|｜](?:{_NAME}|{_BEGUN})[|｜]>)",
        rf"(?i:<[|｜](?:/{_NAME}|{_ENDED})[|｜]>)"
        r"|<\|end\|>(?:<\|begin\|>assistant)?<\|content\|>",
    ),
    Delimiters(r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    Delimiters(r"◁think▷", r"◁/think▷"),  # Kimi-VL
    Delimiters(  # Kimi K3
        r"<\|open\|>think<\|sep\|>", r"<\|close\|>think<\|sep\|>(?:<\|open\|>response<\|sep\|>)?"
    ),
    Delimiters(r"<\|channel>thought", r"<channel\|>"),  # Gemma 4
    Delimiters(r"<unused\d+>thought", r"<unused\d+>", only_paired=True),  # MedGemma
    Delimiters(  # gpt-oss
        rf"(?:<\|start\|>assistant)?{_ASIDE}",
        r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>",
    ),
    # The same, its control tokens left out on decoding.
    Delimiters(_FIRST + "analysis", "assistantfinal", only_paired=True),
    Delimiters(_FIRST + "Here are my reasoning steps:", r"\[BEGIN FINAL RESPONSE\]"),  # Apriel
    Delimiters(  # Granite 3.2
        _FIRST + "Here(?: is|['’]s) my thought process:",
        "Here(?: is|['’]s) my response:",
        only_paired=True,
    ),
    Delimiters(  # words that XML of another meaning is likely to have, too
        _FIRST + "<(?:reason|scratchpad)>", "</(?:reason|scratchpad)>", only_paired=True
    ),
)
_WRAPPERS = re.compile(
    rf"\A\s*(?:(?i:<{_ANSWER}>)|<\|(?:START_RESPONSE|START_TEXT|begin_of_solution)\|>)\s*"
    rf"|\s*(?:(?i:</{_ANSWER}>)|<\|(?:END_RESPONSE|END_TEXT|end_of_solution)\|>"
    r"|\[END FINAL RESPONSE\]|<\|return\|>"
    r"|(?:<\|close\|>(?:response|message)<\|sep\|>|<\|end_of_msg\|>)+)\s*\Z"
)
"""What some put around the answer that follows their thinking."""
_NEXT = re.compile(rf"(?:<\|end\|>)?(?:<\|start\|>assistant)?{_ASIDE}")
"""What gpt-oss writes between thoughts, and between them and what it says of its next steps."""


@dataclass(frozen=True)
class Said:
    """A text in its two parts."""

    thinking: str
    answer: str
    answer_start: int = 0
    """Index in the text behind the last of the thinking."""


def part(text: str, own: tuple[Delimiters, ...] = (), *, is_open: bool = False) -> Said:
    """What was thought and what was answered in a text.

    Thinking may stand in several blocks. Its first opening may be missing, since the prompts of
    many models hold it, and its last closing, where an answer was cut off. `is_open` says that the
    prompt did hold it: a text without a closing is then all thinking. `own` are a template's own
    delimiters, beside those that are known.
    """
    scanner, closings = _scanner(own)
    thoughts: list[str] = []
    kept, position, inside = "", 0, -1 if is_open else None
    quoted: set[int] = set()
    for delimiter in scanner.finditer(text):
        kind, index = str(delimiter.lastgroup)[0], int(str(delimiter.lastgroup)[1:])
        start, stop = delimiter.span()
        before = text[position:start]
        if inside is None and text[max(start - 1, 0) : start] in _QUOTES:
            quoted.add(index)
            continue
        if kind == "o":
            is_ended = closings[index].search(text, stop) is not None
            is_first = not (kept + before).strip()
            if (inside is None and (is_ended or is_first)) or (inside == -1 and is_first):
                kept, inside = kept + before, index
            else:  # within a block, or a word like others in the middle of an answer
                continue
        elif inside is None:
            if index in quoted or (own + _KNOWN)[index].only_paired:
                continue
            thoughts, kept = [*thoughts, kept + before], ""
        elif inside in (-1, index) or closings[inside].match(text, start):
            thoughts.append(before)
            inside = None
        else:
            continue
        position = stop
    if inside is not None:
        thoughts.append(text[position:])
        position = len(text)
    if position == 0:
        return Said("", text)
    each = [piece.strip() for thought in thoughts for piece in _NEXT.split(thought)]
    thinking = "\n\n".join(filter(None, each))
    answer = (kept if kept.strip() else "") + text[position:]
    return Said(thinking, _WRAPPERS.sub("", answer), position)


def ends_open(text: str, own: tuple[Delimiters, ...] = ()) -> bool:
    """Whether a prompt ends with the opening of a block of thinking."""
    openings = (d.opening.removeprefix(_FIRST) for d in own + _KNOWN if d.opening)
    return re.search(rf"(?:{'|'.join(openings)})\s*\Z", text) is not None


def written_in(source: str) -> tuple[str, str] | None:
    """Delimiters that a template's source holds, as it writes them; None where it holds no pair."""
    for known in _KNOWN:
        opening, closing = re.search(known.opening, source), re.search(known.closing, source)
        if opening and closing:
            # Tags of letters are followed by an empty line, control tokens by the answer itself.
            return opening[0] + "\n", "\n" + closing[0] + ("\n\n" if known is _KNOWN[0] else "")
    return None


@cache
def _scanner(own: tuple[Delimiters, ...]) -> tuple[re.Pattern[str], list[re.Pattern[str]]]:
    """Finds every delimiter, as the group `o3` or `c3`; and every closing, by its index."""
    groups, closings = [], []
    for index, delimiters in enumerate(own + _KNOWN):
        closing = rf"(?:{delimiters.closing})\s*"
        if delimiters.opening:
            groups.append(rf"(?P<o{index}>{delimiters.opening})")
        groups.append(rf"(?P<c{index}>{closing})")
        closings.append(re.compile(closing))
    return re.compile("|".join(groups)), closings
