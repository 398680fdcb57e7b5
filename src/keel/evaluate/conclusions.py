"""States what a table of arms shows, in plain sentences. Knows numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from keel.evaluate.arms import is_control
from keel.types import UNSTEERED, ArmResult, EvalResult, Interval
from keel.words import MANY_CUT, counted, fixed, listed, number, p_value, percent, signed

_ALPHA = 0.05
_MORE_NONSENSE = 0.1
"""Rise of the nonsensical share from which a change may be mere breakage."""
_NEARLY = 0.8
"""Share of the cap's lift from which a control counts as pushing as far."""
_ODDER = 1.5
"""Factor of the perplexity from which answers are unlike the model's own."""


def control_of(control: str, arm: str) -> bool:
    """Whether one arm is the matched control of another: `random:-0.5` of `steered:-0.5`.

    >>> control_of("random#2", "capped"), control_of("random:-0.5", "capped")
    (True, False)
    """
    kind, _, argument = arm.partition(":")
    is_same_size = argument == control.partition(":")[2]
    return kind in ("capped", "steered") and is_same_size and is_control(control)


def conclude(result: EvalResult, contrasts: Mapping[tuple[str, str], Interval]) -> tuple[str, ...]:
    """One or a few sentences per arm; `contrasts` hold an arm against its control.

    A change is called shown where p, corrected for all arms, is below 0.05, unless a factor of the
    items has too few levels to speak of others.
    """
    plain = next((arm for arm in result.arms if arm.arm == UNSTEERED), None)
    is_share = result.is_share
    sentences = []
    if plain is not None:
        amount = _amount(plain.rate, is_share)
        sentences.append(f"Unsteered, {amount} {result.measure} (n = {plain.n}).")
        if plain.is_rate_skewed:
            sentences.append("So skewed are the scores that this interval is likely too narrow.")
        if result.baseline is not None:
            amount = _amount(result.baseline.rate, is_share)
            sentences.append(f"Of the bare requests it is {amount}.")
        sentences.extend(
            " ".join(_arm_sentences(arm, plain, result, contrasts))
            for arm in result.arms
            if arm.difference is not None and not is_control(arm.arm)
        )
    if (correlation := result.correlation) is not None:
        r = f"r = {correlation.text(signed)}"
        way = "less" if correlation.value < 0 else "more"
        if result.fixed:
            sentences.append(f"The first answer's projection with the second: {r}, {_few(result)}")
        elif correlation.low <= 0 <= correlation.high:
            sentences.append(
                f"That the first answer's projection tells of the second is not shown: {r}."
            )
        else:
            sentences.append(
                "The nearer the first answer is to the Assistant, "
                f"the {way} of it in the second: {r}."
            )
    return tuple(sentences)


def _arm_sentences(
    arm: ArmResult,
    plain: ArmResult,
    result: EvalResult,
    contrasts: Mapping[tuple[str, str], Interval],
) -> Iterator[str]:
    change, is_share = arm.difference, result.is_share
    assert change is not None
    assert arm.p_value is not None
    points, bounds = _change(change, is_share)
    p = arm.p_value if arm.p_holm is None else arm.p_holm
    p_words = f"p {p_value(arm.p_value)}"
    if p != arm.p_value:
        p_words += f", {p_value(p)} corrected for all arms"
    amount = f"{points} ({bounds}, {p_words})"
    if result.fixed:
        yield f"{arm.arm}: {amount} in {result.measure}, {_few(result)}"
    elif p < _ALPHA:
        verb = "lowers" if change.value < 0 else "raises"
        yield f"{arm.arm} {verb} {result.measure} by {amount}."
        yield from _control_sentences(arm, change, result, contrasts)
    else:
        yield (
            f"{arm.arm}: no difference in {result.measure} is shown: {amount}; with n = {arm.n} a "
            "change within that interval cannot be ruled out."
        )
    if arm.is_difference_skewed:
        yield (
            "So skewed are the differences between items that this interval is likely too narrow, "
            "and p too small."
        )
    broken, before = arm.nonsensical_rate, plain.nonsensical_rate
    if broken is not None and before is not None and broken - before >= _MORE_NONSENSE:
        yield (
            f"But {percent(broken)} of its answers make no sense ({percent(before)} unsteered): "
            "what it changes may be breakage."
        )
    if arm.cut_share is not None and arm.cut_share > MANY_CUT:
        yield f"{percent(arm.cut_share)} of its answers are cut off at the token limit."
    if arm.perplexity and plain.perplexity and arm.perplexity > _ODDER * plain.perplexity:
        yield (
            f"Its answers are unlike the model's own: perplexity {arm.perplexity:.3g} against "
            f"{plain.perplexity:.3g}."
        )


def _few(result: EvalResult) -> str:
    """That a number holds for the levels of some factors alone."""
    these = listed([counted(count, name) for name, count in result.fixed.items()])
    return f"for the {these} asked alone; with so few, nothing is shown about others."


def _control_sentences(
    arm: ArmResult,
    change: Interval,
    result: EvalResult,
    contrasts: Mapping[tuple[str, str], Interval],
) -> Iterator[str]:
    """Whether the axis does more than any push would: more than each of its controls."""
    controls = {control: excess for (name, control), excess in contrasts.items() if name == arm.arm}
    if not controls:
        if arm.arm.partition(":")[0] in ("capped", "steered"):
            yield "No control was run beside it: whether any push would do the same is open."
        return
    alike = {
        control: excess
        for control, excess in controls.items()
        if excess.low <= 0 <= excess.high or (excess.value > 0) != (change.value > 0)
    }
    against = alike or controls
    nearest = min(against, key=lambda control: abs(against[control].value))
    points, bounds = _change(against[nearest], result.is_share)
    if len(alike) == 1:
        yield (
            f"Its control {nearest} is not told apart from it ({points}, {bounds}), so the effect "
            "cannot be put down to the axis."
        )
    elif alike:
        yield (
            f"Its controls {listed(list(alike))} are not told apart from it ({nearest}: {points}, "
            f"{bounds}), so the effect cannot be put down to the axis."
        )
    elif len(controls) == 1:
        yield f"That is more than {nearest} does, by {points} ({bounds})."
    else:
        yield (
            f"That is more than each of {listed(list(controls))} does: than {nearest}, the "
            f"nearest, by {points} ({bounds})."
        )
    if not alike:
        yield from _weakness([row for row in result.arms if row.arm in controls])


def _weakness(controls: Sequence[ArmResult]) -> Iterator[str]:
    """That no control pushes nearly as far as the cap, where that is so."""
    matches = {control.arm: control.match for control in controls if control.match is not None}
    if not matches or len(matches) < len(controls):
        return
    strongest = max(matches, key=lambda name: matches[name].lift)
    match = matches[strongest]
    if match.lift < _NEARLY * match.cap_lift:
        kind = strongest.partition(":")[0].partition("#")[0]
        yield (
            f"But none of its controls pushes as far: {strongest} lifts a token by "
            f"{match.lift:.3g} on average where the cap lifts it by {match.cap_lift:.3g}; run "
            f"{kind}-lift before you put the effect down to the axis."
        )


def _amount(rate: Interval, is_share: bool) -> str:
    return rate.text(percent if is_share else number)


def _change(change: Interval, is_share: bool) -> tuple[str, str]:
    """A difference in words, and its bounds: of shares in points, of scores as they are."""
    if is_share:
        return f"{_points(change.value)} points", change.bounds(_points)
    return _signed(change.value), change.bounds(_signed)


def _points(share: float) -> str:
    """Whole percentage points, signed."""
    return signed(100 * share, lambda amount: fixed(amount, 0))


def _signed(score: float) -> str:
    """A difference of scores to three digits, signed."""
    return signed(score, number)
