"""Results of commands: the report's own sections on a terminal, or their numbers as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keel.cli import console
from keel.words import both_ends

if TYPE_CHECKING:
    from keel.pipeline import Extraction
    from keel.report import Account
    from keel.types import (
        ArmResult,
        Calibration,
        EvalResult,
        PersonaMap,
        PricedSetting,
        TraitMap,
        UntrainedNull,
    )

_ENDS = 5
"""Traits named at each end of a component."""


def print_results(**results: Any) -> None:
    """Print the report's sections on some results, given as fields of `ReportInputs`."""
    from keel.prompts import load_library, role_kinds
    from keel.report import ReportInputs, report_account

    kinds = dict(role_kinds(load_library()))
    print_account(report_account(ReportInputs(title="", role_kinds=kinds, **results)))


def print_account(account: Account) -> None:
    """Print an account at the terminal's width."""
    from keel.report import render_terminal

    console.stdout.print(render_terminal(account, width=console.stdout.width))


def print_next(advice: str) -> None:
    """Print what to type next, in rich's markup; a path in it stays on one line."""
    console.stdout.print(f"\n{advice}", soft_wrap=True)


def extraction_record(extraction: Extraction) -> dict[str, Any]:
    """The main numbers of an extraction."""
    roles = (
        {}
        if extraction.persona_map is None
        else map_record(extraction.persona_map, extraction.untrained)
    )
    roles["cut_share"] = extraction.cut_share
    if extraction.trait_map is None:
        return roles
    return {**roles, "traits": trait_record(extraction.trait_map)}


def map_record(persona_map: PersonaMap, untrained: UntrainedNull | None = None) -> dict[str, Any]:
    """The main numbers of a persona map, with what untrained models reach."""
    from keel.report import UNTRAINED_AUC, rank_roles

    layer = persona_map.axis.layer
    quality, roles = persona_map.quality[layer], len(persona_map.vectors)
    return {
        "layer": layer,
        "layers": len(persona_map.quality),
        "auc": quality.auc,
        "auc_untrained": UNTRAINED_AUC if untrained is None else untrained.auc_range,
        "untrained": untrained,
        "d_prime": quality.d_prime,
        "default_prompts": quality.default_prompts,
        "cos_pc1": quality.cos_pc1,
        "cos_pc1_null": quality.cos_pc1_null,
        "cos_pc1_p": quality.cos_pc1_p,
        "is_along_pc1": quality.is_along_pc1(roles),
        "cos_pc1_caveat": quality.pc1_caveat(roles),
        "default_percentile": quality.default_percentile,
        "split_half_questions": quality.split_half_questions,
        "split_half_roles": quality.split_half_roles,
        "variance_ratio": persona_map.space.variance_ratio_LK[layer],
        "components_for_70_percent": persona_map.space.components_for(0.7, layer),
        "roles": {standing.role: standing.gaps for standing in rank_roles(persona_map)},
        "role_intervals": persona_map.standings,
        "dropped": persona_map.dropped,
        "warnings": persona_map.warnings,
    }


def trait_record(trait_map: TraitMap) -> dict[str, Any]:
    """The main numbers of a trait map."""
    layer, space, axis = trait_map.layer, trait_map.space, trait_map.axis

    def ends_of(component: int) -> dict[str, list[str]]:
        order = space.loadings_LRK[layer, :, component].argsort().tolist()
        low, high = both_ends([trait_map.traits[at] for at in order], _ENDS)
        return {"low": low, "high": high}

    def trait_at(index: int) -> dict[str, Any]:
        vector = trait_map.vectors[index]
        record: dict[str, Any] = {
            "pairs": vector.pairs,
            "judged": vector.judged,
            "differing": vector.differing,
            "split_half": float(trait_map.split_half_LN[layer, index]),
            "default_place": float(trait_map.default_position_LN[layer, index]),
        }
        if axis is not None:
            parts = {"value": axis.cosine_LN, "low": axis.low_LN, "high": axis.high_LN}
            record["axis_cosine"] = {name: float(of[layer, index]) for name, of in parts.items()}
            record["axis_cosine_by_layer"] = axis.cosine_LN[:, index]
        return record

    return {
        "layer": layer,
        "kept": len(trait_map.vectors),
        "dropped": trait_map.dropped,
        "variance_ratio": space.variance_ratio_LK[layer],
        "components_for_70_percent": space.components_for(0.7, layer),
        "default_coordinates": space.default_coordinates_LK[layer],
        "ends_of_components": [ends_of(at) for at in range(space.loadings_LRK.shape[2])],
        "traits": {name: trait_at(index) for index, name in enumerate(trait_map.traits)},
        "warnings": trait_map.warnings,
    }


def calibration_record(calibration: Calibration) -> dict[str, Any]:
    """The main numbers of a calibration."""
    return {
        "chosen": calibration.chosen,
        "price_bound": calibration.price_bound,
        "cut_share": calibration.cut_share,
        "settings": [_setting_record(setting) for setting in calibration.settings],
        "warnings": calibration.warnings,
    }


def _setting_record(setting: PricedSetting) -> dict[str, Any]:
    return {
        "name": setting.name,
        "percentile": setting.percentile,
        "floors": {floor.layer: floor.value for floor in setting.floors},
        "nominal_firing": setting.nominal_firing,
        "realised_firing": setting.realised_firing,
        "firing_rate": setting.firing_rate,
        "kl_default": setting.kl_default,
        "price": setting.price,
        "kl_roles": setting.kl_roles,
        "shift_gaps": setting.shift_gaps,
        "effect": setting.effect,
        "first_share": setting.first_share,
        "distance": setting.distance,
        "default_under": setting.default_under,
        "farther": setting.farther,
    }


def evaluation_record(result: EvalResult) -> dict[str, Any]:
    """All of a result as plain values: an entry per arm, rates with their bounds beside them."""
    record: dict[str, Any] = console.plain(result)
    return {
        **record,
        "arms": [_arm_record(arm, result) for arm in result.arms],
        "baseline": None if result.baseline is None else _arm_record(result.baseline, result),
    }


def _arm_record(arm: ArmResult, result: EvalResult) -> dict[str, Any]:
    record: dict[str, Any] = console.plain(arm)
    rate = record.pop("rate")
    return {
        "arm": record.pop("arm"),
        "rate": rate["value"],
        "ci_low": rate["low"],
        "ci_high": rate["high"],
        "fixed": dict(result.fixed),
        **record,
    }
