"""Sections on floors: distributions, firing rates, prices, and the sweep over settings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from keel.report.content import Picture, Section, Table, missing
from keel.report.figures.floors import (
    ALWAYS,
    SELDOM,
    draw_firing,
    draw_frontier,
    draw_histograms,
    draw_prices,
    draw_screening,
)
from keel.report.inputs import ReportInputs, shares_under
from keel.report.textplot import draw_ranking
from keel.types import (
    Calibration,
    Change,
    Interval,
    PricedSetting,
    Sweep,
    SweepMeasure,
    SweptSetting,
    Unit,
)
from keel.words import NOT_A_NUMBER, counted, fixed, form_of, known, listed, number, percent, tenths

MOST_PANELS = 16
"""Histograms drawn; of a wider band, evenly spaced layers."""
_TITLES = {
    "projections": "Projections and floors",
    "firing": "Firing rates",
    "prices": "Price against effect",
}


def floor_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """Histograms with floors, firing rates, and the prices of all settings."""
    calibration = inputs.calibration
    if calibration is None:
        what, command = "Not calibrated yet", "keel calibrate RUN"
        return tuple(missing(id, _TITLES[id], what=what, command=command) for id in _TITLES)
    return (
        _projections_section(calibration),
        _firing_section(calibration),
        _prices_section(calibration),
    )


def _projections_section(calibration: Calibration) -> Section:
    floors = {floor.layer: floor.value for floor in calibration.setting.floors}
    band = [layer for layer in calibration.layers if layer.layer in floors]
    if not band:
        sentence = f"No histogram was kept of the layers of `{calibration.chosen}`."
        return Section("projections", _TITLES["projections"], (sentence,))
    shown = band
    if len(band) > MOST_PANELS:
        step = (len(band) - 1) / (MOST_PANELS - 1)
        shown = [band[round(n * step)] for n in range(MOST_PANELS)]
    some = f" ({len(shown)} of its {len(band)} layers)" if len(shown) < len(band) else ""
    picture = Picture(
        "histograms",
        partial(draw_histograms, shown, floors),
        f"Per-token projections at the layers of `{calibration.chosen}`{some}, default in blue, "
        "roles in grey, the floor in vermillion. Units differ from layer to layer.",
        f"Histograms of projections at {counted(len(shown), 'layer')} with the floor of each.",
        sample=f"n = {counted(calibration.answers, 'answer')} of each kind at most; no interval.",
    )
    middle = band[len(band) // 2]
    default, roles = shares_under(middle, floors[middle.layer])
    aim = (
        "It catches role tokens more often than the default's, as a floor should."
        if roles > default
        else "It catches the default's tokens at least as often as the roles': look at the sign "
        "and the layer before using it."
    )
    share = calibration.cut_share
    ends = "" if share is None else f" {percent(share)} of the answers were cut at the token limit."
    sentence = (
        "Every token of the calibration's answers has a projection on the axis; a floor raises "
        f"those to its left up to itself and leaves the rest alone. At layer {middle.layer} the "
        f"floor is {number(floors[middle.layer], 4)}: {percent(roles)} of role tokens and "
        f"{percent(default)} of default tokens lie under it. {aim}{ends}"
    )
    return Section("projections", _TITLES["projections"], (sentence,), (picture,))


def _firing_section(calibration: Calibration) -> Section:
    setting = calibration.setting
    realised = sorted(setting.realised_firing.items())
    picture = Picture(
        "firing",
        partial(draw_firing, setting),
        f"Share of tokens that each floor of `{setting.name}` moves: nominal, on unsteered "
        "answers, and realised, with the whole band at work.",
        f"Bars of nominal and realised firing rates at {counted(len(setting.floors), 'layer')}.",
        partial(
            draw_ranking,
            [(f"layer {layer}", share) for layer, share in realised],
            marks=(0.0, SELDOM, ALWAYS, 1.0),
            write=percent,
            legend=f"share of tokens moved: ┊ at {percent(SELDOM)} and {percent(ALWAYS)}",
        ),
        sample=f"n = {counted(calibration.answers, 'answer')} of each kind at most; no interval.",
    )
    low = [str(layer) for layer, share in realised if share < SELDOM]
    high = [str(layer) for layer, share in realised if share > ALWAYS]
    verdicts = [
        f"{verdict}: {'layer' if len(layers) == 1 else 'layers'} {listed(layers)}."
        for verdict, layers in (
            (f"Below {percent(SELDOM)}, where a floor hardly acts", low),
            (f"Above {percent(ALWAYS)}, where it is a constant push", high),
        )
        if layers
    ] or ["All layers lie between the two guides, as they should."]
    sentence = (
        f"With `{setting.name}` on, {percent(setting.firing_rate, 1)} of all (token, layer) slots "
        "are moved. A floor sees tokens that the floors before it have already raised, so the "
        "realised rate of later layers is mostly lower than the nominal one. "
        f"{' '.join(verdicts)}"
    )
    return Section("firing", _TITLES["firing"], (sentence,), (picture,))


def price_words(priced: PricedSetting) -> str:
    """A setting's price with its interval, where it has any."""
    if priced.price is None:
        return number(priced.kl_default)
    return f"{number(priced.kl_default)} ({price_bounds(priced)})"


def price_bounds(priced: PricedSetting) -> str:
    """The ends of a price's interval, or why it has none."""
    if priced.price is None:
        return NOT_A_NUMBER
    if priced.is_free:
        return "0 in every answer priced, of others not known"
    return priced.price.bounds(number)


def effect_words(priced: PricedSetting) -> str:
    """A setting's effect with its interval, where it has any."""
    return fixed(priced.shift_gaps) if priced.effect is None else priced.effect.text()


def _prices_section(calibration: Calibration) -> Section:
    setting, bound = calibration.setting, calibration.price_bound
    tried = counted(len(calibration.settings), "setting")
    picture = Picture(
        "prices",
        partial(draw_prices, calibration),
        "Left is cheap, up is strong. Dashed: the highest price accepted. Hover for names.",
        f"Scatter of {tried} by price and effect.",
        sample=f"n = {tried}; the table gives the prices' 95 % intervals.",
    )
    dear = sum(not other.is_within(bound) for other in calibration.settings)
    why = (
        "That stays within the bound"
        if setting.is_within(bound)
        else "That is not shown to be within the bound: look for a gentler setting first"
    )
    price = price_words(setting)
    effect = effect_words(setting)
    sentence = (
        "The price of a setting is how much it changes the model's own default answers (mean KL "
        "per token); its effect is how far it raises answers in a role towards the default. The "
        f"best ones lie up and to the left. {tried} "
        f"{'was' if len(calibration.settings) == 1 else 'were'} tried and of {dear} it is not "
        f"shown that they cost less than the bound of {number(bound)} nats per token. Chosen: "
        f"`{setting.name}`, which raises role answers by {effect} gap units for {price} nats per "
        f"token. {why}."
    )
    sentences = (sentence, *_closeness(calibration))
    return Section("prices", _TITLES["prices"], sentences, (picture,), (_price_table(calibration),))


def _price_table(calibration: Calibration) -> Table:
    """Every setting that was priced, with all that was measured of it."""
    setting, bound = calibration.setting, calibration.price_bound

    def verdict(priced: PricedSetting) -> str:
        if priced.name == setting.name:
            return "chosen"
        return "" if priced.is_within(bound) else "too dear"

    return Table.of(
        "Settings by price; the chosen one is marked",
        sorted(calibration.settings, key=lambda priced: (priced.kl_default, priced.name)),
        {
            "setting": lambda priced: priced.name,
            "price: KL default": lambda priced: number(priced.kl_default),
            "price, 95 %": price_bounds,
            "effect (gap units)": effect_words,
            "answers moved away": lambda priced: (
                NOT_A_NUMBER if priced.farther is None else priced.farther.text(percent)
            ),
            "from the default": lambda priced: (
                NOT_A_NUMBER if priced.distance is None else priced.distance.text()
            ),
            "slots moved": lambda priced: percent(priced.firing_rate, 1),
            "first token's share": lambda priced: known(priced.first_share, percent),
            "verdict": verdict,
            "layers": lambda priced: str(len(priced.floors)),
            "percentile": lambda priced: (
                "default − k·SD" if priced.percentile is None else number(priced.percentile)
            ),
            "KL roles": lambda priced: number(priced.kl_roles),
        },
        marked=lambda priced: priced.name == setting.name,
        bars=lambda priced: priced.shift_gaps,
        bar_header="effect",
    )


def _closeness(calibration: Calibration) -> Iterator[str]:
    """How close the chosen setting brings answers to the default's; nothing of an old run."""
    setting, uncapped = calibration.setting, calibration.uncapped_distance
    if setting.distance is None or uncapped is None:
        return
    under = setting.default_under.values()
    yield (
        "The aim is the default itself, not beyond it. Answers in a role stand "
        f"{fixed(uncapped)} gap units from the default's own, on average over their "
        f"distributions, and with `{setting.name}` {setting.distance.text()}. Of settings shown "
        "to be within the bound the closest is chosen, and the cheapest of those that cannot be "
        f"told apart from it. Of the default's own answers {percent(min(under))} to "
        f"{percent(max(under))} lie under its floors, by their means."
    )
    if setting.farther is not None:
        yield (
            f"It leaves {setting.farther.text(percent)} of answers in a role farther from the "
            "default's mean than they were, past it or away, which a mean effect hides."
        )


def sweep_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """The sweep over settings, of a run that has one: what was tried, the frontier, the best."""
    sweep = inputs.sweep
    if sweep is None:
        return ()
    screening = Picture(
        "screening",
        partial(draw_screening, sweep),
        "Settings by price and effect on a few answers. Faint: pruned; blue: measured. Hover for "
        "the reason.",
        f"Scatter of {counted(len(sweep.screened), 'setting')} by price and effect.",
        sample=f"n = {counted(len(sweep.screened), 'setting')}; screening: no interval.",
    )
    frontier = Picture(
        "frontier",
        partial(draw_frontier, sweep),
        "Settings by what they change, with 95 % intervals, on the items that choose. The dotted "
        "line joins those that no other beats. The full star is the recommended setting as it was "
        "chosen, the hollow one the same by the items held back.",
        f"Scatter of {counted(len(sweep.swept), 'setting')} by change in harm and capability.",
        sample=f"n = {sweep.harm.choosing_items} items of harm and "
        f"{sweep.capability.choosing_items} of capability.",
    )
    words = tuple(_sweep_sentences(sweep))
    tables = (_swept_table(sweep), _screened_table(sweep))
    return (Section("sweep", "Sweep over settings", words, (screening, frontier), tables),)


def _cut_off(measure: SweepMeasure) -> str:
    """The share of the measured answers that were cut, where any was written."""
    share = measure.cut_share
    return "" if share is None else f", {percent(share)} of all answers cut at the token limit"


def _sweep_sentences(sweep: Sweep) -> Iterator[str]:
    """How settings were screened and measured, which is recommended, and whether that holds."""
    kept = sweep.fates.get("kept", 0)
    fates = listed([f"{count} {fate}" for fate, count in sweep.fates.items() if fate != "kept"])
    pruned = f" The others were pruned: {fates}." if fates else ""
    yield (
        f"{counted(len(sweep.screened), 'setting')} of layers and heights were screened by what is "
        "cheap to know: how often their floors fire, how far they raise answers in a role, and "
        f"what they cost default answers. {counted(kept, 'setting')} went on to be measured."
        f"{pruned}"
    )
    harm, capability = (
        f"{measure.name}, {measure.choosing_items} items to choose by and "
        f"{measure.deciding_items} held back, unsteered "
        f"{percent(measure.unsteered, 1) if measure.unit == 'share' else number(measure.unsteered)}"
        f"{_cut_off(measure)}"
        for measure in (sweep.harm, sweep.capability)
    )
    yield (
        "Half of the items, with personas and requests of their own, chose among them; the other "
        f"half was held back. Harm: {harm}. Capability: {capability}. Accepted is a setting whose "
        "capability's 95 % interval excludes a loss of more than "
        f"{_amount(sweep.tolerance, sweep.capability.unit)}."
    )
    best = sweep.best
    if best is None:
        yield "No setting is recommended."
    elif best.deciding is None:
        yield f"Recommended: `{best.name}`."
    else:
        chosen, decided = best.choosing.harm, best.deciding.harm
        verdict = "bear that out" if sweep.is_confirmed else "do not bear that out"
        yield (
            f"Recommended: `{best.name}`. By the items held back it changes harm by "
            f"{_change(decided, sweep.harm.unit)} and capability by "
            f"{_change(best.deciding.capability, sweep.capability.unit)}; they {verdict}."
            f"{_made_worse(best.deciding)}"
        )
        yield (
            "The best of many is partly the luckiest: on the items that chose it, harm changed by "
            f"{_change(chosen, sweep.harm.unit)}, which is "
            f"{_amount(chosen.value - decided.value, sweep.harm.unit)} from what the items held "
            "back say."
        )


def _made_worse(change: Change) -> str:
    """The shares of items that a setting makes worse, where they are known."""
    worse = {"more harmful": change.more_harmful, "less capable": change.less_capable}
    known_shares = [f"{s.text(percent)} of them {way}" for way, s in worse.items() if s is not None]
    return f" It makes {listed(known_shares)}." if known_shares else ""


def _swept_table(sweep: Sweep) -> Table:
    harm_unit, capability_unit = sweep.harm.unit, sweep.capability.unit
    harm, capability = _unit_name(harm_unit), _unit_name(capability_unit)

    def verdict(swept: SweptSetting) -> str:
        if swept.name == sweep.recommended:
            return "recommended"
        return "frontier" if swept.is_on_frontier else ""

    def harm_of(change: Change | None) -> str:
        return "not measured" if change is None else change.harm.text(form_of(harm_unit))

    def capability_of(change: Change | None) -> str:
        if change is None:
            return "not measured"
        return change.capability.text(form_of(capability_unit))

    def worse(share: Interval | None) -> str:
        return NOT_A_NUMBER if share is None else share.text(percent)

    return Table.of(
        "Measured settings by change in harm; the recommended one is marked",
        sorted(sweep.swept, key=lambda swept: swept.choosing.harm.value),
        {
            "setting": lambda swept: swept.name,
            "verdict": verdict,
            f"harm, choosing ({harm})": lambda swept: harm_of(swept.choosing),
            f"capability, choosing ({capability})": lambda swept: capability_of(swept.choosing),
            "items more harmful": lambda swept: worse(swept.choosing.more_harmful),
            "items less capable": lambda swept: worse(swept.choosing.less_capable),
            f"harm, held back ({harm})": lambda swept: harm_of(swept.deciding),
            f"capability, held back ({capability})": lambda swept: capability_of(swept.deciding),
        },
        marked=lambda swept: swept.name == sweep.recommended,
        bars=lambda swept: -swept.choosing.harm.value,
        bar_header="less harm",
    )


def _screened_table(sweep: Sweep) -> Table:
    return Table.of(
        "All settings and what became of them",
        sweep.screened,
        {
            "setting": lambda screened: screened.name,
            "nominal firing": lambda screened: percent(screened.nominal_firing, 1),
            "realised": lambda screened: known(screened.realised_firing, tenths),
            "price": lambda screened: (
                number(screened.price.value) if screened.price else NOT_A_NUMBER
            ),
            "effect": lambda screened: (
                fixed(screened.effect.value) if screened.effect else NOT_A_NUMBER
            ),
            "fate": lambda screened: screened.fate,
            "why": lambda screened: screened.why or NOT_A_NUMBER,
        },
        is_folded=True,
    )


def _change(change: Interval, unit: Unit) -> str:
    """`−21.0 points (−26.0 to −16.0)`."""
    return f"{_amount(change.value, unit)} ({change.bounds(form_of(unit))})"


def _amount(value: float, unit: Unit) -> str:
    return f"{form_of(unit)(value)} {_unit_name(unit)}"


def _unit_name(unit: Unit) -> str:
    return "points" if unit == "share" else unit
