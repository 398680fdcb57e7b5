"""Every section's numbers and words come from the inputs."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from keel.cli.results import map_record
from keel.errors import NotFiniteError, UsageError
from keel.report import (
    ReportInputs,
    render_html,
    render_markdown,
    render_terminal,
    report_account,
)
from keel.report.inputs import (
    RoleStanding,
    floor_in_gaps,
    rank_kinds,
    rank_roles,
    shares_under,
)
from keel.types import (
    Calibration,
    DefaultPromptQuality,
    Interval,
    LayerQuality,
    PersonaMap,
    ReplaySpread,
    UntrainedModel,
    UntrainedNull,
)
from keel.words import number


def section(inputs: ReportInputs, title: str) -> str:
    """One section of the report, as text."""
    found = re.search(
        rf"## {title}\n(.*?)(?=\n## |\Z)", render_markdown(report_account(inputs)), re.DOTALL
    )
    assert found is not None
    return found[1]


def mapped(inputs: ReportInputs) -> PersonaMap:
    assert inputs.persona_map is not None
    return inputs.persona_map


def calibrated(inputs: ReportInputs) -> Calibration:
    assert inputs.calibration is not None
    return inputs.calibration


def with_quality(inputs: ReportInputs, **changes: object) -> ReportInputs:
    """The inputs with another quality at the recommended layer, 20."""
    found = mapped(inputs)
    quality: list[LayerQuality] = list(found.quality)
    quality[20] = replace(quality[20], **changes)
    return replace(inputs, persona_map=replace(found, quality=tuple(quality)))


def test_key_figures_tell_the_recommended_layer(inputs: ReportInputs) -> None:
    told = render_markdown(report_account(with_quality(inputs, auc=Interval(0.777, 0.702, 0.801))))
    assert "| Held-out AUC, layer 20 | 0.78 | 0.70 to 0.80; untrained 0.49 to 0.95 |" in told


def test_an_auc_never_stands_without_what_untrained_models_reach(inputs: ReportInputs) -> None:
    """The page's first sentence gave it alone, though random weights reach as much."""
    account = report_account(with_quality(inputs, auc=Interval(0.777, 0.702, 0.801)))
    (sentence,) = (text for text in account.lead if "of pairs" in text)
    assert (
        "models with random weights reach 49\N{NO-BREAK SPACE}% to 95\N{NO-BREAK SPACE}%"
        in sentence
    )


def test_a_runs_own_untrained_models_stand_beside_auc_and_d_prime(inputs: ReportInputs) -> None:
    models = tuple(
        UntrainedModel(seed, 3, auc, d_prime, 0.9, 0.9, 0.5)
        for seed, auc, d_prime in ((0, 0.61, 0.4), (1, 0.72, 0.8))
    )
    account = report_account(replace(inputs, untrained=UntrainedNull(models, 12, 12, 156, 64)))
    notes = {figure.label: figure.note for figure in account.key_figures}
    assert notes["Held-out AUC, layer 20"].endswith("; untrained 0.61 to 0.72")
    assert notes["Held-out d′"].endswith("; untrained 0.40 to 0.80")


def test_the_share_of_answers_cut_stands_beside_n_wherever_the_maps_say_it(
    inputs: ReportInputs,
) -> None:
    """Only where most were cut a warning said so."""
    cut = replace(inputs, cut_share=0.31)
    page = render_html(report_account(cut)).replace("\N{NO-BREAK SPACE}", " ")
    page = re.sub(r"<[^>]*>", "", page)
    said = re.findall(r"[\d,]+ answers in \d+ roles and [\d,]+ of the default(.{0,40})", page)
    assert len(said) >= 5  # ranking, space, variance, and quality in words and under its picture
    assert {tail[:28] for tail in said} == {"; 31 % of all answers cut at"}
    assert "of all answers cut at the token limit" in render_markdown(report_account(cut))
    shown = io.StringIO()
    Console(width=300, file=shown).print(render_terminal(report_account(cut), width=300))
    assert "31 % of all answers cut at the token limit" in " ".join(shown.getvalue().split())


def test_the_verdict_follows_the_auc(inputs: ReportInputs) -> None:
    told = {
        value: section(
            with_quality(inputs, auc=Interval(value, value - 0.06, value + 0.03)), "How good.*?"
        )
        for value in (0.55, 0.7, 0.8, 0.95)
    }
    assert "cannot be told from chance" in told[0.55]  # 0.49 lies below one half
    assert "overlap widely" in told[0.7]
    assert "with some overlap" in told[0.8]
    assert "apart clearly" in told[0.95]


def test_agreement_with_pc1_counts_only_where_roles_hardly_reach_it(inputs: ReportInputs) -> None:
    """By the p of the warning, not by the interval: that is of another question."""
    chance = with_quality(inputs, cos_pc1=Interval(0.9, 0.8, 0.95), cos_pc1_p=0.2)
    assert "no nearer to the main direction" in section(chance, "How good.*?")
    clear = with_quality(inputs, cos_pc1=Interval(0.9, 0.2, 0.95), cos_pc1_p=0.04)
    assert "more than a role's would" in section(clear, "How good.*?")


def test_where_p_holds_for_no_such_design_no_verdict_is_given(inputs: ReportInputs) -> None:
    """It claimed at p 0.04, though with 20 roles 10 to 14 % of true nulls reach 0.05 where the
    default is asked under more prompts than a role."""
    prompts = (DefaultPromptQuality(0.8, 0.9),) * 5
    several = with_quality(inputs, cos_pc1_p=0.04, default_prompts=prompts)
    assert 19 < len(mapped(inputs).vectors) < 50
    said = section(several, "How good.*?")
    assert "no verdict on whether" in said
    assert "10 to 14 % of true nulls reach 0.05" in said
    assert "more than a role's would" not in said
    record = map_record(mapped(several))
    assert record["is_along_pc1"] is None
    assert record["cos_pc1_caveat"] in said
    alone = with_quality(inputs, cos_pc1_p=0.04, default_prompts=prompts[:1])
    assert "more than a role's would" in section(alone, "How good.*?")
    assert map_record(mapped(alone))["is_along_pc1"] is True
    assert map_record(mapped(alone))["cos_pc1_caveat"] == ""


@pytest.mark.parametrize(
    ("roles", "prompts", "p", "verdict"),
    [
        (18, 1, 0.05, None),  # the least p of 18 roles and the default is 1 of 19, above 0.05
        (19, 1, 0.05, True),
        (19, 1, 0.10, False),
        (49, 5, 0.02, None),
        (50, 5, 0.02, True),
        (50, 5, 0.06, False),
        (50, 5, None, None),
    ],
)
def test_a_verdict_on_pc1_needs_enough_roles(
    inputs: ReportInputs, roles: int, prompts: int, p: float | None, verdict: bool | None
) -> None:
    quality = replace(
        mapped(inputs).quality[20],
        cos_pc1_p=p,
        default_prompts=(DefaultPromptQuality(0.8, 0.9),) * prompts,
    )
    assert quality.is_along_pc1(roles) is verdict
    assert bool(quality.pc1_caveat(roles)) is (verdict is None)


def test_of_single_default_prompts_it_is_said_that_they_have_no_interval(
    inputs: ReportInputs,
) -> None:
    prompts = (DefaultPromptQuality(0.8, 0.9),) * 5
    said = section(with_quality(inputs, default_prompts=prompts), "How good.*?")
    assert "The default by its system prompts; values of these answers, without intervals" in said


def test_components_that_were_not_kept_are_said_to_be_more(inputs: ReportInputs) -> None:
    found = mapped(inputs)
    # Components of 45 and 30 %, the other ten of none: two reach 70 %, all twelve never 80 %.
    ratio_LK = torch.zeros_like(found.space.variance_ratio_LK)
    ratio_LK[:, 0], ratio_LK[:, 1] = 0.45, 0.30
    space = replace(found.space, variance_ratio_LK=ratio_LK)
    told = section(
        replace(inputs, persona_map=replace(found, space=space)), "Persona space"
    ).replace("\N{NO-BREAK SPACE}", " ")
    assert "PC1 carries 45 %" in told
    assert "2 for 70 %, more than the 12 kept for 80 % and more than the 12 kept for 90 %" in told


def test_the_default_inside_the_cloud_is_not_called_an_end(inputs: ReportInputs) -> None:
    found = mapped(inputs)
    inside = replace(found.space, default_coordinates_LK=0 * found.space.default_coordinates_LK)
    moved = replace(inputs, persona_map=replace(found, space=inside))
    right = int((found.space.coordinates_LRK[20, :, 0] > 0).sum())
    assert f"{right} roles of 24 lie further out than it" in section(moved, "Persona space")
    assert "sits at the Assistant's end" in section(inputs, "Persona space")


def test_ranks_are_in_gap_units_of_the_axis(inputs: ReportInputs) -> None:
    found = mapped(inputs)
    mean_LD, away_LD = found.space.mean_LD, found.axis.vector
    # The axis runs from the role mean to the default, so a role three quarters along has 0.75.
    planted = replace(found.vectors[0], vector_LD=mean_LD + 0.75 * away_LD)
    standings = rank_roles(replace(found, vectors=(planted, *found.vectors[1:])))
    gaps = {standing.role: standing.gaps for standing in standings}
    assert gaps["editor"] == pytest.approx(0.75, abs=1e-4)
    assert list(gaps.values()) == sorted(gaps.values())


def test_roles_above_the_default_are_counted(inputs: ReportInputs) -> None:
    found = mapped(inputs)
    beyond = replace(found.vectors[0], vector_LD=found.space.mean_LD + 1.5 * found.axis.vector)
    moved = replace(found, vectors=(beyond, *found.vectors[1:]))
    told = section(replace(inputs, persona_map=moved), "Roles along.*?")
    assert "1 role of 24 project above the default" in told
    assert "Nearest to it: editor," in told


def test_kinds_of_roles_are_ranked_by_the_mean_of_their_roles(inputs: ReportInputs) -> None:
    def standing(role: str, gaps: float) -> RoleStanding:
        return RoleStanding(role, "fully", 10, 0.0, gaps)

    standings = [standing(*one) for one in (("ghost", -0.5), ("elf", -0.1), ("poet", 0.0))]
    standings += [standing(*one) for one in (("judge", 0.2), ("nurse", 0.6))]
    kinds = {"ghost": "mythical", "elf": "mythical", "poet": "creative"}
    found = rank_kinds(standings, {**kinds, "judge": "job", "nurse": "job"})
    # A kind of one role, the poet's, tells no more than the role.
    assert [(one.kind, len(one.roles)) for one in found] == [("job", 2), ("mythical", 2)]
    assert [one.mean.value for one in found] == pytest.approx([0.4, -0.3])
    # Two roles 0.4 apart: 0.2 about their mean, times t of one degree of freedom, 12.706.
    reach = 0.2 * 12.706
    assert found[0].mean.low == pytest.approx(0.4 - reach, abs=1e-3)
    assert found[0].mean.high == pytest.approx(0.4 + reach, abs=1e-3)
    three = dict(zip(mapped(inputs).space.roles, ["job", "sea", "sky"] * 8, strict=True))
    told = section(replace(inputs, role_kinds=three), "Roles along.*?")
    assert "a kind of roles says more" in told
    of_kinds = rank_kinds(rank_roles(mapped(inputs)), three)
    assert all(kind.mean.text() in told for kind in of_kinds)
    assert "about other roles of a kind" in told
    assert "Kinds of roles along the axis" in told


def test_share_under_a_floor_is_read_off_the_histogram(inputs: ReportInputs) -> None:
    layer = replace(
        calibrated(inputs).layers[0],
        bin_edges=(0.0, 1.0, 2.0),
        default_share=(0.2, 0.8),
        role_share=(0.6, 0.4),
    )
    # All of the first bin and half of the second: 0.2 + 0.4, and 0.6 + 0.2.
    assert shares_under(layer, 1.5) == pytest.approx((0.6, 0.8))
    assert shares_under(layer, -1.0) == (0.0, 0.0)
    assert shares_under(layer, 9.0) == pytest.approx((1.0, 1.0))


def test_a_floor_that_catches_the_default_more_is_called_out(inputs: ReportInputs) -> None:
    swapped = tuple(
        replace(layer, default_share=layer.role_share, role_share=layer.default_share)
        for layer in calibrated(inputs).layers
    )
    turned = replace(inputs, calibration=replace(calibrated(inputs), layers=swapped))
    assert "look at the sign" in section(turned, "Projections and floors")
    assert "as a floor should" in section(inputs, "Projections and floors")


def test_layers_that_fire_too_seldom_or_always_are_named(inputs: ReportInputs) -> None:
    setting = calibrated(inputs).setting
    fired = replace(setting, realised_firing={18: 0.9, 19: 0.5, 20: 0.4, 21: 0.1, 22: 0.05})
    others = tuple(fired if s is setting else s for s in calibrated(inputs).settings)
    told = section(
        replace(inputs, calibration=replace(calibrated(inputs), settings=others)), "Firing rates"
    ).replace("\N{NO-BREAK SPACE}", " ")
    assert "39.0 % of all (token, layer) slots" in told  # (90 + 50 + 40 + 10 + 5) / 5
    assert "Below 15 %, where a floor hardly acts: layers 21 and 22." in told
    assert "Above 80 %, where it is a constant push: layer 18." in told


def test_a_price_above_the_bound_is_called_out(inputs: ReportInputs) -> None:
    strict = replace(calibrated(inputs), price_bound=0.001)
    told = section(replace(inputs, calibration=strict), "Price against effect")
    assert "of 12 it is not shown that they cost less than the bound of 0.001" in told
    assert "not shown to be within the bound: look for a gentler setting" in told
    assert "That stays within the bound" in section(inputs, "Price against effect")


def test_every_setting_has_a_row_and_its_price(inputs: ReportInputs) -> None:
    told = section(inputs, "Price against effect")
    for setting in calibrated(inputs).settings:
        assert f"| {setting.name} | {number(setting.kl_default)} |" in told


def test_turns_that_are_unusually_low_are_counted_beside_the_rate_by_chance(
    inputs: ReportInputs,
) -> None:
    first = inputs.drift[0]
    lowest = [9.0 if turn.turn < 5 else -9.0 for turn in first.turns]
    turns = tuple(
        replace(turn, lowest_usual_gaps=gaps)
        for turn, gaps in zip(first.turns, lowest, strict=True)
    )
    reading = replace(first, turns=turns, false_alarms=Interval(0.05, 0.02, 0.11))
    told = section(replace(inputs, drift=(reading,)), "Drift of conv.*?")
    assert "1 of 1 first turn is marked as unusually low" in told
    assert "Of later turns 4 of 11 are" in told
    assert "5 of 12" in told
    assert "lower than all but 5" in told
    assert "2 % to 11 % of them would be marked" in told


def test_later_turns_are_not_marked_where_it_is_not_known_how_conversations_fall(
    inputs: ReportInputs,
) -> None:
    first = inputs.drift[0]
    low = tuple(
        replace(turn, lowest_usual_gaps=9.0, expected_gaps=None) for turn in first.turns[:3]
    )
    reading = replace(first, turns=low, false_alarms=Interval(0.05, 0.02, 0.11))
    told = section(replace(inputs, drift=(reading,)), "Drift of conv.*?")
    assert "later turns are not marked" in told
    assert "1 of 1" in told
    assert [turn.is_low for turn in low] == [True, False, False]


def test_a_run_that_cannot_tell_what_is_unusual_says_so(inputs: ReportInputs) -> None:
    first = replace(inputs.drift[0], false_alarms=None)
    told = section(replace(inputs, drift=(first,)), "Drift of conv.*?")
    assert "No turn is marked as low" in told


def test_the_rise_of_a_replay_is_the_mean_over_turns(inputs: ReportInputs) -> None:
    replay = inputs.replays[0]
    turns = tuple(
        replace(
            turn,
            uncapped=replace(turn.uncapped, gaps=0.1),
            capped=replace(turn.capped, gaps=0.1 + rise),
        )
        for turn, rise in zip(replay.turns[:2], (0.2, 0.6), strict=True)
    )
    told = section(replace(inputs, replays=(replace(replay, turns=turns),)), "Answered anew.*?")
    assert "0.40 gap units higher on average over 2 turns" in told  # (0.2 + 0.6) / 2


def test_turns_that_a_cap_leaves_lower_are_counted_beside_the_mean(inputs: ReportInputs) -> None:
    """+0.9 and −0.1: 0.40 higher on average, and one of two lies lower."""
    replay = inputs.replays[0]
    turns = tuple(
        replace(
            turn,
            uncapped=replace(turn.uncapped, gaps=0.1),
            capped=replace(turn.capped, gaps=0.1 + rise),
        )
        for turn, rise in zip(replay.turns[:2], (0.9, -0.1), strict=True)
    )
    mixed = replace(replay, turns=turns)
    shown = section(replace(inputs, replays=(mixed,)), "Answered anew.*?")
    assert "0.40 gap units higher on average over 2 turns; 1 of these lie lower capped" in shown
    assert "| 1 of 2 |" in shown
    assert [replace(mixed, turns=(turn,)).lowered for turn in turns] == [0, 1]


def test_a_replay_of_several_draws_is_summed_up_over_all_of_them(inputs: ReportInputs) -> None:
    """First draw: 0.1 and 0.9, 0.8 higher. Over the draws: 0.30 and 0.55, 0.25 higher."""
    replay = inputs.replays[0]
    spread = ReplaySpread(*(Interval(v, v - 1, v + 1) for v in (0.3, 0.55, 0.25)), draws=3)
    turns = tuple(
        replace(
            turn,
            uncapped=replace(turn.uncapped, gaps=0.1),
            capped=replace(turn.capped, gaps=0.9),
            spread=spread,
        )
        for turn in replay.turns[:2]
    )
    several = replace(replay, turns=turns, draws=3)
    shown = section(replace(inputs, replays=(several,)), "Answered anew.*?")
    assert "0.25 gap units higher on average over 2 turns and all draws" in shown
    row = next(
        line for line in shown.splitlines() if line.startswith(f"| {replay.conversation_id}")
    )
    assert "| 2 | 0.30 | 0.55 |" in row
    assert "marks and cut answers are of the first" in shown


def test_dropped_roles_and_facts_are_listed(inputs: ReportInputs) -> None:
    changed = replace(
        inputs,
        facts=(("date", "2031-05-06"), ("seed", "1234")),
        persona_map=replace(mapped(inputs), dropped={"mime": 3, "clown": 0}),
    )
    told = section(changed, "The run")
    assert "with how many they had: clown (0) and mime (3)." in told
    assert "| seed | 1234 |" in told
    assert "smollm2 · revision main · 30 layers × 64 · 2031-05-06" in render_markdown(
        report_account(changed)
    )


def test_a_floor_without_an_axis_has_no_gap_units(inputs: ReportInputs) -> None:
    axis = mapped(inputs).axis
    middle = float(axis.role_projection[20] + 0.5 * axis.gap[20])
    assert floor_in_gaps(axis, middle, 20) == pytest.approx(0.5, abs=1e-5)
    assert floor_in_gaps(None, middle, 20) is None
    assert floor_in_gaps(axis, None, 20) is None


def test_markdown_leaves_out_pictures_long_texts_and_folded_tables(inputs: ReportInputs) -> None:
    told = render_markdown(report_account(inputs))
    assert "spoken in turn" not in told
    assert "All layers as a table" not in told
    assert "<" not in told.replace("\\<", "")


def test_a_pipe_in_a_name_does_not_break_the_table(inputs: ReportInputs) -> None:
    told = render_markdown(report_account(replace(inputs, facts=(("sampling", "a|b\nc"),))))
    assert "| sampling | a\\|b c |" in told


def test_a_price_of_nothing_has_no_interval_of_no_width(inputs: ReportInputs) -> None:
    """It was printed as 0 (0 to 0), though nothing bounds what answers not priced would cost."""
    calibration = calibrated(inputs)
    free = replace(calibration.setting, kl_default=0.0, price=Interval(0.0, 0.0, math.inf))
    settings = tuple(free if s.name == free.name else s for s in calibration.settings)
    page = render_markdown(
        report_account(replace(inputs, calibration=replace(calibration, settings=settings)))
    )
    assert "for 0 (0 in every answer priced, of others not known) nats per token" in page
    assert "| Price (KL) | 0 | 0 in every answer priced, of others not known; nats per" in page
    assert "0 to 0 " not in page
    assert free.is_within(0.1)


def test_a_chosen_setting_that_was_not_priced_is_refused(inputs: ReportInputs) -> None:
    with pytest.raises(UsageError, match="layers_1:2-p75"):
        replace(inputs, calibration=replace(calibrated(inputs), chosen="layers_1:2-p75"))


def test_an_axis_layer_without_quality_is_refused(inputs: ReportInputs) -> None:
    found = mapped(inputs)
    with pytest.raises(UsageError, match="layer 20"):
        replace(inputs, persona_map=replace(found, quality=found.quality[:20]))


def test_an_axis_without_a_gap_is_refused(inputs: ReportInputs) -> None:
    found = mapped(inputs)
    flat = replace(found.axis, default_projection=found.axis.role_projection)
    with pytest.raises(NotFiniteError, match="gap between default and roles is 0"):
        replace(inputs, persona_map=replace(found, axis=flat))
