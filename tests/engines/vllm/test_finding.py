"""Which modules of a model are its decoder layers, and that wrapping one leaves the rest alone."""

import pytest
import torch
from torch import nn

from keel.engines.vllm.deployment import Deployment
from keel.engines.vllm.finding import find_layers
from keel.engines.vllm.layers import wrap
from keel.engines.vllm.packing import PackedInterventions
from keel.errors import ModelLayoutError
from keel.steering import Addition
from tests.engines.vllm.toys import (
    PPMissingLayer,
    ToyLayer,
    ToyModel,
    direction,
    held_layer,
    rows,
    tokens,
)


def listed(model):
    return [number for number, _ in sorted(find_layers(model, len(model.layers)).items())]


def test_decoder_layers_are_found_by_structure_wherever_they_hang():
    inner = ToyModel(3)
    outer = nn.Module()
    outer.language = nn.ModuleDict({"model": inner})
    outer.norms = nn.ModuleList(nn.Identity() for _ in range(3))  # nothing to learn: no decoder
    assert list(find_layers(outer, 3).values()) == list(inner.layers)


def test_as_many_experts_as_layers_are_not_taken_for_layers():
    model = ToyModel(3)
    for layer in model.layers:
        layer.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert list(find_layers(model, 3).values()) == list(model.layers)


def test_two_lists_of_the_same_length_are_refused():
    model = ToyModel(3)
    model.vision = nn.ModuleList(ToyLayer() for _ in range(3))
    with pytest.raises(ModelLayoutError, match="found layers, vision"):
        find_layers(model, 3)


def test_a_tower_as_deep_as_the_language_model_is_not_taken_for_it():
    model = nn.Module()
    model.language, model.tower = ToyModel(3), ToyModel(3)
    model.get_language_model = lambda: model.language
    assert list(find_layers(model, 3).values()) == list(model.language.layers)


def test_a_tower_is_told_from_the_language_model_where_vllm_runs_a_class_of_transformers():
    """vLLM then gives the whole model as its language model, which calls the true one `model`."""

    class Whole(nn.Module):
        pass

    whole = Whole()
    whole.tower, whole.language = ToyModel(3), ToyModel(3)
    shown = Whole()
    shown.__dict__.update(whole.__dict__)
    Whole.model = whole.language
    whole.get_language_model = lambda: shown
    assert list(find_layers(whole, 3).values()) == list(whole.language.layers)


def test_a_model_that_marks_no_language_model_is_searched_as_a_whole():
    def unmarked():
        raise NotImplementedError

    model = ToyModel(3)
    model.get_language_model = unmarked
    assert list(find_layers(model, 3).values()) == list(model.layers)


def test_a_second_list_of_the_same_layers_is_the_same_list():
    """Gemma 4 without shared keys: its self-decoder is all of it, its cross-decoder empty."""
    model = ToyModel(3)
    model.self_decoder, model.cross_decoder = nn.Module(), nn.Module()
    model.self_decoder.decoder_layers = model.layers[:3]
    model.cross_decoder.decoder_layers = model.layers[3:]
    assert list(find_layers(model, 3).values()) == list(model.layers)


def test_a_model_without_such_a_list_is_refused():
    with pytest.raises(ModelLayoutError, match=r"one list of 4 decoder layers.*found none"):
        find_layers(ToyModel(3), 4)


@pytest.mark.parametrize("held", [range(0, 2), range(2, 5), range(5, 6)])
def test_a_pipeline_stage_holds_its_own_layers_by_their_number_in_the_model(held):
    model = ToyModel(6, held=held)
    assert isinstance(model.layers[held.start - 1 if held.start else 5], PPMissingLayer)
    assert listed(model) == list(held)


def test_only_the_wrapped_layer_changes_and_not_its_class():
    model = ToyModel(2)
    held = held_layer(Deployment(None))
    held.write(1, PackedInterventions.of("x", [Addition(0, direction(1), 1.5)]))
    wrap(model.layers[0], held)
    held.shared.fill(rows([2] * 3))
    stream = tokens(3)
    with torch.no_grad():
        plain, _ = ToyLayer.forward(model.layers[0], stream, None)
        moved, residual = model.layers[0](stream, None)
        unwrapped, _ = model.layers[1](stream, None)
        assert torch.equal(unwrapped, ToyLayer.forward(model.layers[1], stream, None)[0])
    torch.testing.assert_close(moved - plain, 1.5 * direction(1).expand(3, -1))
    assert torch.equal(residual, stream)
    assert isinstance(model.layers[0], ToyLayer)


def test_a_layer_is_wrapped_once():
    model = ToyModel(1)
    wrap(model.layers[0], held_layer(Deployment(None)))
    with pytest.raises(ModelLayoutError, match="held already"):
        wrap(model.layers[0], held_layer(Deployment(None)))
