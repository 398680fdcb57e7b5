"""Sections on what a calibration found: distributions, firing rates, prices."""

from __future__ import annotations

from functools import partial

from keel.report import figures
from keel.report.content import Picture, Section, Table, missing
from keel.report.figures import ALWAYS, SELDOM
from keel.report.findings import shares_under
from keel.report.inputs import ReportInputs
from keel.types import Calibration, LayerCalibration, PricedSetting
from keel.words import counted, fixed, listed, number, percent

MOST_PANELS = 16
"""Histograms drawn; of a wider band, evenly spaced layers."""
_TITLES = {
    "projections": "Projections and floors",
    "firing": "Firing rates",
    "prices": "Price against effect",
}


def floor_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """Histograms with floors, firing rates, and the sweep's prices."""
    calibration = inputs.calibration
    if calibration is None:
        what, command = "Not calibrated yet", "keel calibrate RUN"
        return tuple(missing(id, _TITLES[id], what=what, command=command) for id in _TITLES)
    return (_projections(calibration), _firing(calibration.setting), _prices(calibration))


def _projections(calibration: Calibration) -> Section:
    floors = {floor.layer: floor.value for floor in calibration.setting.floors}
    band = [layer for layer in calibration.layers if layer.layer in floors]
    if not band:
        told = f"No histogram was kept of the layers of `{calibration.chosen}`."
        return Section("projections", _TITLES["projections"], (told,))
    shown = _evenly(band, MOST_PANELS)
    some = f" ({len(shown)} of its {len(band)} layers)" if len(shown) < len(band) else ""
    picture = Picture(
        "histograms",
        partial(figures.draw_histograms, shown, floors),
        f"Per-token projections at the layers of `{calibration.chosen}`{some}, default in blue, "
        "roles in grey, the floor in vermillion. Units differ from layer to layer.",
        f"Histograms of projections at {counted(len(shown), 'layer')} with the floor of each.",
    )
    words = (_say_projections(band, floors),)
    return Section("projections", _TITLES["projections"], words, (picture,))


def _say_projections(band: list[LayerCalibration], floors: dict[int, float]) -> str:
    middle = band[len(band) // 2]
    default, roles = shares_under(middle, floors[middle.layer])
    aim = (
        "It catches role tokens more often than the default's, as a floor should."
        if roles > default
        else "It catches the default's tokens at least as often as the roles': look at the sign "
        "and the layer before using it."
    )
    return (
        "Every token of the calibration's answers has a projection on the axis; a floor raises "
        f"those to its left up to itself and leaves the rest alone. At layer {middle.layer} the "
        f"floor is {number(floors[middle.layer], 4)}: {percent(roles)} of role tokens and "
        f"{percent(default)} of default tokens lie under it. {aim}"
    )


def _firing(setting: PricedSetting) -> Section:
    picture = Picture(
        "firing",
        partial(figures.draw_firing, setting),
        f"Share of tokens that each floor of `{setting.name}` moves: reckoned on unsteered "
        "answers, and counted with the whole band at work.",
        f"Bars of nominal and realised firing rates at {counted(len(setting.floors), 'layer')}.",
    )
    return Section("firing", _TITLES["firing"], (_say_firing(setting),), (picture,))


def _say_firing(setting: PricedSetting) -> str:
    seldom = [str(at) for at, share in sorted(setting.realised_firing.items()) if share < SELDOM]
    always = [str(at) for at, share in sorted(setting.realised_firing.items()) if share > ALWAYS]
    judged = []
    if seldom:
        judged.append(f"Below {percent(SELDOM)}, where a floor hardly acts: {_layers(seldom)}.")
    if always:
        judged.append(f"Above {percent(ALWAYS)}, where it is a constant push: {_layers(always)}.")
    verdict = " ".join(judged) or "All layers lie between the two guides, as they should."
    return (
        f"With `{setting.name}` on, {percent(setting.firing_rate, 1)} of all (token, layer) slots "
        "are moved. A floor sees tokens that the floors before it have already raised, so the "
        f"realised rate of later layers is mostly lower than the nominal one. {verdict}"
    )


def _prices(calibration: Calibration) -> Section:
    picture = Picture(
        "prices",
        partial(figures.draw_prices, calibration),
        "Each point is a setting. Left is cheap, up is strong. Dashed: the highest price accepted. "
        "Hover for the name where there was no room for it.",
        f"Scatter of {counted(len(calibration.settings), 'setting')} by price and effect.",
    )
    return Section(
        "prices",
        _TITLES["prices"],
        (_say_prices(calibration),),
        (picture,),
        (_price_table(calibration),),
    )


def _say_prices(calibration: Calibration) -> str:
    setting, bound = calibration.setting, calibration.price_bound
    dear = sum(other.kl_default > bound for other in calibration.settings)
    why = (
        "That stays within the bound"
        if setting.kl_default <= bound
        else "That is above the bound: look for a gentler setting before you rely on it"
    )
    return (
        "The price of a setting is how much it changes the model's own default answers (mean KL "
        "per token); its effect is how far it raises answers in a role towards the default. The "
        "best ones lie up and to the left. "
        f"{counted(len(calibration.settings), 'setting')} "
        f"{'was' if len(calibration.settings) == 1 else 'were'} tried and {dear} cost more than "
        f"the bound of {number(bound)} nats per token. Chosen: `{setting.name}`, which raises role "
        f"answers by {fixed(setting.shift_gaps)} gap units for {number(setting.kl_default)} nats "
        f"per token. {why}."
    )


def _price_table(calibration: Calibration) -> Table:
    ordered = sorted(calibration.settings, key=lambda setting: (setting.kl_default, setting.name))
    header = (
        "setting",
        "layers",
        "percentile",
        "slots moved",
        "price: KL default",
        "KL roles",
        "effect (gap units)",
    )
    rows = [
        (
            setting.name,
            str(len(setting.floors)),
            "default − k·SD" if setting.percentile is None else number(setting.percentile),
            percent(setting.firing_rate, 1),
            number(setting.kl_default),
            number(setting.kl_roles),
            fixed(setting.shift_gaps),
        )
        for setting in ordered
    ]
    marked = next(i for i, setting in enumerate(ordered) if setting.name == calibration.chosen)
    return Table("Settings by price; the chosen one is marked", header, tuple(rows), marked=marked)


def _layers(numbers: list[str]) -> str:
    return f"layer{'' if len(numbers) == 1 else 's'} {listed(numbers)}"


def _evenly(band: list[LayerCalibration], most: int) -> list[LayerCalibration]:
    if len(band) <= most:
        return band
    return [band[round(place * (len(band) - 1) / (most - 1))] for place in range(most)]
