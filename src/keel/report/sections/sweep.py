"""The section on a sweep: what was tried, the frontier, and the setting that is recommended."""

from __future__ import annotations

from functools import partial

from keel.report import figures
from keel.report.content import Picture, Section, Table
from keel.report.inputs import ReportInputs
from keel.types import Interval, ScreenedSetting, Sweep, SweepMeasure, SweptSetting, Unit
from keel.words import counted, fixed, form_of, listed, number, percent


def sweep_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """The sweep over settings, of a run that has one."""
    found = inputs.sweep
    if found is None:
        return ()
    words = (_say_tried(found), _say_measured(found), *_say_best(found))
    pictures = (_screening(found), _frontier(found))
    tables = (_measured_table(found), _screened_table(found))
    return (Section("sweep", "Sweep over settings", words, pictures, tables),)


def _say_tried(found: Sweep) -> str:
    kept = found.fates.get("kept", 0)
    pruned = [f"{count} {fate}" for fate, count in found.fates.items() if fate != "kept"]
    told = f" The others were pruned: {listed(pruned)}." if pruned else ""
    return (
        f"{counted(len(found.screened), 'setting')} of layers and heights were screened by what is "
        "cheap to know: how often their floors fire, how far they raise answers in a role, and "
        f"what they cost default answers. {counted(kept, 'setting')} went on to be measured.{told}"
    )


def _say_measured(found: Sweep) -> str:
    return (
        "Half of the items, with personas and requests of their own, chose among them; the other "
        f"half was held back. Harm: {_items(found.harm)}. Capability: {_items(found.capability)}. "
        "Accepted is a setting whose capability's 95 % interval excludes a loss of more than "
        f"{_amount(found.tolerance, found.capability.unit)}."
    )


def _items(measure: SweepMeasure) -> str:
    counts = f"{measure.choosing_items} items to choose by and {measure.deciding_items} held back"
    return f"{measure.name}, {counts}"


def _say_best(found: Sweep) -> list[str]:
    best = found.best
    if best is None:
        return ["No setting is recommended."]
    if best.deciding is None:
        return [f"Recommended: `{best.name}`."]
    harm, capability = best.deciding.harm, best.deciding.capability
    verdict = "bear that out" if found.is_confirmed else "do not bear that out"
    return [
        f"Recommended: `{best.name}`. By the items held back it changes harm by "
        f"{_interval(harm, found.harm.unit)} and capability by "
        f"{_interval(capability, found.capability.unit)}; they {verdict}.",
        "The best of many is partly the luckiest: on the items that chose it, harm changed by "
        f"{_interval(best.choosing.harm, found.harm.unit)}, which is "
        f"{_amount(best.choosing.harm.value - harm.value, found.harm.unit)} from what the items "
        "held back say.",
    ]


def _screening(found: Sweep) -> Picture:
    return Picture(
        "screening",
        partial(figures.draw_screening, found),
        "Settings by price and effect on a few answers. Faint: pruned; blue: measured. Hover for "
        "the reason.",
        f"Scatter of {counted(len(found.screened), 'setting')} by price and effect.",
    )


def _frontier(found: Sweep) -> Picture:
    return Picture(
        "frontier",
        partial(figures.draw_frontier, found),
        "Settings by what they change, with 95 % intervals, on the items that choose. The dotted "
        "line joins those that no other beats. The full star is the recommended setting as it was "
        "chosen, the hollow one the same by the items held back.",
        f"Scatter of {counted(len(found.swept), 'setting')} by change in harm and capability.",
    )


def _measured_table(found: Sweep) -> Table:
    ordered = sorted(found.swept, key=lambda one: one.choosing.harm.value)
    header = (
        "setting",
        "frontier",
        "harm, choosing",
        "capability, choosing",
        "harm, held back",
        "capability, held back",
    )
    rows = tuple(_measured_row(one, found) for one in ordered)
    marked = next((n for n, one in enumerate(ordered) if one.name == found.recommended), None)
    caption = "Measured settings by change in harm; the recommended one is marked"
    return Table(caption, header, rows, marked=marked)


def _measured_row(one: SweptSetting, found: Sweep) -> tuple[str, ...]:
    cells = [one.name, "yes" if one.is_on_frontier else "no"]
    for change in (one.choosing, one.deciding):
        if change is None:
            cells += ["not asked", "not asked"]
        else:
            cells.append(_interval(change.harm, found.harm.unit))
            cells.append(_interval(change.capability, found.capability.unit))
    return tuple(cells)


def _screened_table(found: Sweep) -> Table:
    header = ("setting", "nominal firing", "realised", "price", "effect", "fate", "why")
    rows = tuple(_screened_row(one) for one in found.screened)
    return Table("All settings and what became of them", header, rows, is_folded=True)


def _screened_row(one: ScreenedSetting) -> tuple[str, ...]:
    return (
        one.name,
        percent(one.nominal_firing, 1),
        "–" if one.realised_firing is None else percent(one.realised_firing, 1),
        "–" if one.price is None else number(one.price.value),
        "–" if one.effect is None else fixed(one.effect.value),
        one.fate,
        one.why or "–",
    )


def _interval(change: Interval, unit: Unit) -> str:
    return f"{_amount(change.value, unit)} ({change.bounds(form_of(unit))})"


def _amount(value: float, unit: Unit) -> str:
    return f"{form_of(unit)(value)} {'points' if unit == 'share' else unit}"
