"""The numbers at the top of a report."""

from __future__ import annotations

from keel.report.content import KeyFigure
from keel.report.findings import quality_at
from keel.report.inputs import ReportInputs
from keel.types import Calibration, PersonaMap
from keel.words import counted, fixed, number, percent


def key_figures(inputs: ReportInputs) -> tuple[KeyFigure, ...]:
    """The run in a row of numbers: those that its parts allow."""
    figures: list[KeyFigure] = []
    if inputs.persona_map is not None:
        figures += _map_figures(inputs.persona_map)
    if inputs.calibration is not None:
        figures += _floor_figures(inputs.calibration)
    return tuple(figures)


def _map_figures(found: PersonaMap) -> list[KeyFigure]:
    layer = found.axis.layer
    at = quality_at(found, layer)
    roles = counted(len(found.vectors), "role")
    return [
        KeyFigure(f"Held-out AUC, layer {layer}", fixed(at.auc.value), at.auc.bounds()),
        KeyFigure("Held-out d′", fixed(at.d_prime.value), at.d_prime.bounds()),
        KeyFigure("|cos(axis, PC1)|", fixed(at.cos_pc1.value), f"chance {fixed(at.cos_pc1_null)}"),
        KeyFigure("Default's percentile", percent(at.default_percentile), f"among {roles}"),
    ]


def _floor_figures(calibration: Calibration) -> list[KeyFigure]:
    setting = calibration.setting
    nominal = setting.nominal_firing.values()
    expected = sum(nominal) / len(nominal) if nominal else float("nan")
    bound = f"nats per token, bound {number(calibration.price_bound)}"
    return [
        KeyFigure("Chosen setting", setting.name, counted(len(setting.floors), "floor")),
        KeyFigure("Firing rate", percent(setting.firing_rate), f"nominal {percent(expected)}"),
        KeyFigure("Price (KL)", number(setting.kl_default), bound),
    ]
