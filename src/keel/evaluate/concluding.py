"""What a table of arms lets one conclude, in plain sentences. Knows numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from keel.evaluate.arm_names import CONTROLS
from keel.types import UNSTEERED, ArmResult, EvalResult, Interval

_ALPHA = 0.05
_MORE_NONSENSE = 0.1
"""Rise of the nonsensical share from which a change may be mere breakage."""
_ODDER = 1.5
"""Factor of the perplexity from which answers are unlike the model's own."""


def control_of(control: str, arm: str) -> bool:
    """Whether one arm is the matched control of another: `random:-0.5` of `steered:-0.5`.

    >>> control_of("random#2", "capped"), control_of("random:-0.5", "capped")
    (True, False)
    """
    head, _, argument = control.partition(":")
    kind, _, own = arm.partition(":")
    is_control = head.partition("#")[0] in CONTROLS
    return is_control and kind in ("capped", "steered") and argument == own


def conclude(result: EvalResult, contrasts: Mapping[tuple[str, str], Interval]) -> tuple[str, ...]:
    """One or a few sentences per arm; `contrasts` hold an arm against its control.

    A change is called shown where p, corrected for all arms, is below 0.05.
    """
    plain = next((arm for arm in result.arms if arm.arm == UNSTEERED), None)
    is_share = result.is_share
    said = []
    if plain is not None:
        amount = _amount(plain.rate, is_share)
        said.append(f"Unsteered, {amount} {result.measure} (n = {plain.n}).")
    if plain is not None and result.baseline is not None:
        said.append(f"Of the bare requests it is {_amount(result.baseline.rate, is_share)}.")
    if plain is not None:
        said.extend(
            " ".join(_say(arm, plain, result, contrasts))
            for arm in result.arms
            if arm.difference is not None and not _is_control(arm.arm)
        )
    if result.correlation is not None:
        said.append(_say_correlation(result.correlation))
    return tuple(said)


def _say(
    arm: ArmResult,
    plain: ArmResult,
    result: EvalResult,
    contrasts: Mapping[tuple[str, str], Interval],
) -> Iterator[str]:
    assert arm.difference is not None
    yield _say_change(arm, arm.difference, result)
    if _is_shown(arm):
        yield from _say_controls(arm, contrasts, result.is_share)
    yield from _say_damage(arm, plain)


def _say_change(arm: ArmResult, found: Interval, result: EvalResult) -> str:
    measure, is_share = result.measure, result.is_share
    told = f"{_points(found.value, is_share)} ({_range(found, is_share)}, p = {_p(arm)})"
    if not _is_shown(arm):
        return (
            f"{arm.arm}: no difference in {measure} is shown: {told}; with n = {arm.n} a change "
            "within that interval cannot be ruled out."
        )
    verb = "lowers" if found.value < 0 else "raises"
    return f"{arm.arm} {verb} {measure} by {told}."


def _say_controls(
    arm: ArmResult, contrasts: Mapping[tuple[str, str], Interval], is_share: bool
) -> Iterator[str]:
    """Whether the axis does more than any push would."""
    held = {control: found for (name, control), found in contrasts.items() if name == arm.arm}
    assert arm.difference is not None
    if not held:
        if arm.arm.partition(":")[0] in ("capped", "steered"):
            yield "No control was run beside it: whether any push would do the same is open."
        return
    for control, found in held.items():
        is_apart = found.low > 0 or found.high < 0
        points, span = _points(found.value, is_share), _range(found, is_share)
        if is_apart and (found.value > 0) == (arm.difference.value > 0):
            yield f"That is more than {control} does, by {points} ({span})."
        else:
            yield (
                f"Its control {control} is not told apart from it ({points}, {span}), so the "
                "effect cannot be put down to the axis."
            )


def _say_damage(arm: ArmResult, plain: ArmResult) -> Iterator[str]:
    broken, before = arm.nonsensical_rate, plain.nonsensical_rate
    if broken is not None and before is not None and broken - before >= _MORE_NONSENSE:
        yield (
            f"But {broken:.0%} of its answers make no sense ({before:.0%} unsteered): what it "
            "changes may be breakage."
        )
    if arm.perplexity and plain.perplexity and arm.perplexity > _ODDER * plain.perplexity:
        yield (
            f"Its answers are unlike the model's own: perplexity {arm.perplexity:.3g} against "
            f"{plain.perplexity:.3g}."
        )


def _say_correlation(found: Interval) -> str:
    told = f"r = {found.text('{:+.2f}'.format)}"
    if found.low <= 0 <= found.high:
        return f"Where the first answer stands does not tell what the second will be: {told}."
    way = "less" if found.value < 0 else "more"
    return (
        f"The nearer the first answer is to the Assistant, the {way} of it in the second: {told}."
    )


def _is_shown(arm: ArmResult) -> bool:
    p = arm.p_value if arm.p_holm is None else arm.p_holm
    return p is not None and p < _ALPHA


def _is_control(name: str) -> bool:
    return name.partition(":")[0].partition("#")[0] in CONTROLS


def _p(arm: ArmResult) -> str:
    assert arm.p_value is not None
    told = "<0.001" if arm.p_value < 0.001 else f"{arm.p_value:.2g}"
    if arm.p_holm is None or arm.p_holm == arm.p_value:
        return told
    return f"{told}, {arm.p_holm:.2g} corrected for all arms"


def _amount(rate: Interval, is_share: bool) -> str:
    return rate.text(("{:.0%}" if is_share else "{:.3g}").format)


def _points(value: float, is_share: bool) -> str:
    if is_share:
        return f"{100 * value:+.0f} points"
    return f"{value:+.3g}"


def _range(found: Interval, is_share: bool) -> str:
    return found.bounds((lambda share: f"{100 * share:+.0f}") if is_share else "{:+.3g}".format)
