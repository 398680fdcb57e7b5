"""What a table of arms lets one conclude, in plain sentences. Knows numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from keel.evaluate.arms import CONTROLS
from keel.types import UNSTEERED, ArmResult, EvalResult, Interval
from keel.words import counted, listed

_ALPHA = 0.05
_MORE_NONSENSE = 0.1
"""Rise of the nonsensical share from which a change may be mere breakage."""
_MANY_CUT = 0.5
"""Share of answers cut off from which what is measured is mostly beginnings."""
_ODDER = 1.5
"""Factor of the perplexity from which answers are unlike the model's own."""


def control_of(control: str, arm: str) -> bool:
    """Whether one arm is the matched control of another: `random:-0.5` of `steered:-0.5`.

    >>> control_of("random#2", "capped"), control_of("random:-0.5", "capped")
    (True, False)
    """
    kind, _, argument = arm.partition(":")
    is_same_size = argument == control.partition(":")[2]
    return kind in ("capped", "steered") and is_same_size and _is_control(control)


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
        if result.baseline is not None:
            amount = _amount(result.baseline.rate, is_share)
            sentences.append(f"Of the bare requests it is {amount}.")
        sentences.extend(
            " ".join(_arm_sentences(arm, plain, result, contrasts))
            for arm in result.arms
            if arm.difference is not None and not _is_control(arm.arm)
        )
    if (correlation := result.correlation) is not None:
        r = f"r = {correlation.text('{:+.2f}'.format)}"
        way = "less" if correlation.value < 0 else "more"
        sentences.append(
            f"Where the first answer stands does not tell what the second will be: {r}."
            if correlation.low <= 0 <= correlation.high
            else "The nearer the first answer is to the Assistant, "
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
    p_words = "<0.001" if arm.p_value < 0.001 else f"{arm.p_value:.2g}"
    if p != arm.p_value:
        p_words += f", {p:.2g} corrected for all arms"
    amount = f"{points} ({bounds}, p = {p_words})"
    if result.fixed:
        these = listed([counted(count, name) for name, count in result.fixed.items()])
        yield (
            f"{arm.arm}: {amount} in {result.measure}, for these {these} alone; with so few, "
            "nothing is shown about others."
        )
    elif p < _ALPHA:
        verb = "lowers" if change.value < 0 else "raises"
        yield f"{arm.arm} {verb} {result.measure} by {amount}."
        yield from _control_sentences(arm, change, contrasts, is_share)
    else:
        yield (
            f"{arm.arm}: no difference in {result.measure} is shown: {amount}; with n = {arm.n} a "
            "change within that interval cannot be ruled out."
        )
    broken, before = arm.nonsensical_rate, plain.nonsensical_rate
    if broken is not None and before is not None and broken - before >= _MORE_NONSENSE:
        yield (
            f"But {broken:.0%} of its answers make no sense ({before:.0%} unsteered): what it "
            "changes may be breakage."
        )
    if arm.cut_share is not None and arm.cut_share > _MANY_CUT:
        yield f"{arm.cut_share:.0%} of its answers are cut off at the token limit."
    if arm.perplexity and plain.perplexity and arm.perplexity > _ODDER * plain.perplexity:
        yield (
            f"Its answers are unlike the model's own: perplexity {arm.perplexity:.3g} against "
            f"{plain.perplexity:.3g}."
        )


def _control_sentences(
    arm: ArmResult,
    change: Interval,
    contrasts: Mapping[tuple[str, str], Interval],
    is_share: bool,
) -> Iterator[str]:
    """Whether the axis does more than any push would."""
    controls = {control: excess for (name, control), excess in contrasts.items() if name == arm.arm}
    if not controls and arm.arm.partition(":")[0] in ("capped", "steered"):
        yield "No control was run beside it: whether any push would do the same is open."
    for control, excess in controls.items():
        is_apart = excess.low > 0 or excess.high < 0
        points, bounds = _change(excess, is_share)
        if is_apart and (excess.value > 0) == (change.value > 0):
            yield f"That is more than {control} does, by {points} ({bounds})."
        else:
            yield (
                f"Its control {control} is not told apart from it ({points}, {bounds}), so the "
                "effect cannot be put down to the axis."
            )


def _is_control(name: str) -> bool:
    return name.partition(":")[0].partition("#")[0] in CONTROLS


def _amount(rate: Interval, is_share: bool) -> str:
    return rate.text(("{:.0%}" if is_share else "{:.3g}").format)


def _change(change: Interval, is_share: bool) -> tuple[str, str]:
    """A difference in words, and its bounds: of shares in points, of scores as they are."""
    if is_share:
        bounds = change.bounds(lambda share: f"{100 * share:+.0f}")
        return f"{100 * change.value:+.0f} points", bounds
    return f"{change.value:+.3g}", change.bounds("{:+.3g}".format)
