"""Results in words: what a newcomer is told after a command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from keel.cli.trait_findings import trait_summary, trait_words
from keel.types import Calibration, Interval, PersonaMap, PricedSetting, Replay
from keel.words import Form, fixed

if TYPE_CHECKING:
    from keel.pipeline import Extraction


def found_summary(found: Extraction) -> dict[str, Any]:
    """The main numbers of all that an extraction found."""
    roles = {} if found.persona_map is None else map_summary(found.persona_map)
    return roles if found.trait_map is None else {**roles, "traits": trait_summary(found.trait_map)}


def found_words(found: Extraction) -> Iterator[str]:
    """What an extraction found, in sentences."""
    if found.persona_map is not None:
        yield from map_words(found.persona_map)
    if found.trait_map is not None:
        yield from trait_words(found.trait_map)


def map_summary(found: PersonaMap) -> dict[str, Any]:
    """The main numbers of a persona map."""
    layer = found.axis.layer
    quality = found.quality[layer]
    ranked = ranked_roles(found)
    return {
        "layer": layer,
        "layers": len(found.quality),
        "auc": quality.auc,
        "d_prime": quality.d_prime,
        "cos_pc1": quality.cos_pc1,
        "cos_pc1_null": quality.cos_pc1_null,
        "default_percentile": quality.default_percentile,
        "split_half_questions": quality.split_half_questions,
        "split_half_roles": quality.split_half_roles,
        "variance_ratio": found.space.variance_ratio_LK[layer],
        "components_for_70_percent": found.space.components_for(0.7, layer),
        "roles": {role: gaps for gaps, role in ranked},
        "dropped": found.dropped,
        "warnings": found.warnings,
    }


def ranked_roles(found: PersonaMap) -> list[tuple[float, str]]:
    """(gap units, role), lowest first: 0 is the role mean, 1 the default mean."""
    layer = found.axis.layer
    direction = found.axis.direction[layer]
    return sorted(
        (found.axis.in_gaps(float(v.vector_LD[layer] @ direction), layer), v.role)
        for v in found.vectors
    )


def map_words(found: PersonaMap) -> Iterator[str]:
    """What the map says, in sentences."""
    layer = found.axis.layer
    quality = found.quality[layer]
    ranked = ranked_roles(found)
    low = escape(", ".join(role for _, role in ranked[:5]))
    high = escape(", ".join(role for _, role in reversed(ranked[-5:])))
    auc = _interval(quality.auc, "{:.0%}".format)
    yield (
        f"[b]The Assistant Axis[/b], read at layer {layer} of {len(found.quality)}: a default "
        f"answer stands above a role's in {auc} of held-out pairs "
        f"(50% is chance)."
    )
    yield f"  farthest from the Assistant: [red]{low}[/red]"
    yield f"  nearest to the Assistant:    [blue]{high}[/blue]"
    yield (
        f"  |cos(axis, PC1)| {_interval(quality.cos_pc1)}, by chance up to "
        f"{quality.cos_pc1_null:.2f}; d′ {_interval(quality.d_prime)}"
    )
    yield from (f"  [yellow]note:[/yellow] {warning}" for warning in map(escape, found.warnings))


def calibration_summary(found: Calibration) -> dict[str, Any]:
    """The main numbers of a calibration."""
    return {
        "chosen": found.chosen,
        "price_bound": found.price_bound,
        "settings": [setting_summary(s) for s in found.settings],
        "warnings": found.warnings,
    }


def setting_summary(setting: PricedSetting) -> dict[str, Any]:
    """The main numbers of one setting."""
    return {
        "name": setting.name,
        "percentile": setting.percentile,
        "floors": {f.layer: f.value for f in setting.floors},
        "nominal_firing": setting.nominal_firing,
        "realised_firing": setting.realised_firing,
        "firing_rate": setting.firing_rate,
        "kl_default": setting.kl_default,
        "kl_roles": setting.kl_roles,
        "shift_gaps": setting.shift_gaps,
    }


def calibration_words(found: Calibration) -> Iterator[str]:
    """What the calibration says, in sentences."""
    chosen = found.setting
    first, last = chosen.floors.layers[0], chosen.floors.layers[-1]
    height = "" if chosen.percentile is None else f" at the {chosen.percentile:g}th percentile"
    yield (
        f"[b]The floor[/b] {chosen.name}: layers {first} to {last}{height}. It moves "
        f"{chosen.firing_rate:.0%} of (token, layer) slots, raises answers in a role by "
        f"{chosen.shift_gaps:.2f} gaps, and costs the default {chosen.kl_default:.3f} nats a "
        f"token (bound {found.price_bound:g})."
    )
    yield from (f"  [yellow]note:[/yellow] {warning}" for warning in found.warnings)


def _interval(interval: Interval, form: Form = fixed) -> str:
    return f"{form(interval.value)} [dim]({interval.bounds(form)})[/dim]"


def replay_words(found: Replay) -> Iterator[str]:
    """What changed in the answers, at the turn where the two arms stand farthest apart."""
    if not found.turns:
        yield "Neither arm said anything."
        return
    turn = max(found.turns, key=lambda t: t.capped.gaps - t.uncapped.gaps)
    low = sum(t.uncapped.gaps for t in found.turns) / len(found.turns)
    high = sum(t.capped.gaps for t in found.turns) / len(found.turns)
    yield (
        f"On average the answers stand at {low:+.2f} gaps uncapped and at {high:+.2f} capped; the "
        f"floor moved {found.firing_rate:.0%} of slots. They part most at:"
    )
    yield f"[dim]person  [/dim] {escape(turn.user)}"
    yield f"[red]uncapped[/red] {escape(_short(turn.uncapped.text))}"
    yield f"[blue]capped  [/blue] {escape(_short(turn.capped.text))}"


def _short(text: str, most: int = 320) -> str:
    words = " ".join(text.split())
    return words if len(words) <= most else words[: most - 1].rsplit(" ", 1)[0] + " …"
