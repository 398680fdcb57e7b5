"""Which output of a vLLM layer is the residual stream, read from its source and by nothing else."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from keel.engines.vllm.streams import StreamSource, read_source, stream_in
from keel.errors import ModelLayoutError
from tests.engines.vllm.toys import ToyLayer

has_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)
ADDED_ALREADY = {
    "CohereDecoderLayer",
    "Cohere2MoeDecoderLayer",
    "CohereCompassDecoderLayer",
    "Exaone4DecoderLayer",
    "GraniteMoeHybridAttentionDecoderLayer",
    "GraniteMoeHybridMambaDecoderLayer",
    "HyperCLOVAXDecoderLayer",
    "MolmoDecoderNormAfterLayer",
    "Molmo2DecoderNormAfterLayer",
    "MuseGlimmerDecoderLayer",
    "PhiMoEDecoderLayer",
    "StablelmDecoderLayer",
}
"""Classes of vLLM 0.32 whose second output the next layer overwrites unread."""
WITHOUT_SECOND = {
    "EagleMiniCPMDecoderLayer",
    "Gemma4DecoderLayer",
    "Gemma4MTPDecoderLayer",
    "MiniCPMDecoderLayer",
}
"""Those that return (hidden, None)."""
NO_LAYERS = ("FalconH1AttentionDecoderLayer", "FalconH1SSMDecoderLayer")
"""Named as layers, but parts of FalconH1ParallelHybrid, which returns one tensor."""
SEVERAL = {
    "DeepseekV4DecoderLayer",
    "Glm5NextDecoderLayer",
    "InklingDecoderLayer",
    "KimiDecoderLayer",
    "Qwen4ExpDecoderLayer",
}


def layer(body, arguments="hidden, residual"):
    """A layer's `forward` of these lines, as it stands in a class."""
    lines = "".join(f"\n    {line}" for line in body.splitlines())
    return {"forward": ast.parse(f"def forward(self, {arguments}):{lines}").body[0]}


def is_sum(body, arguments="hidden, residual"):
    return stream_in(layer(body, arguments), "Layer").is_sum


def test_a_residual_that_is_read_makes_the_stream_a_sum():
    assert is_sum(
        "hidden, residual = self.norm(hidden, residual)\nreturn self.mlp(hidden), residual"
    )
    assert is_sum("residual += hidden\nreturn self.mlp(residual), residual")
    assert is_sum("with self.context:\n    x = hidden + residual\nreturn self.mlp(x), x")


def test_a_residual_that_is_overwritten_unread_leaves_the_first_output_alone():
    assert not is_sum("residual = hidden\nreturn residual + self.mlp(hidden), residual")
    both = "residual = hidden\nhidden, residual = self.norm(hidden, residual)\n"
    assert not is_sum(both + "return residual + self.mlp(hidden), residual")


def test_a_layer_that_is_given_no_residual_returns_its_stream_first():
    body = "residual = hidden\nreturn residual + self.mlp(hidden), residual"
    assert not is_sum(body, "positions, hidden")


def test_a_residual_read_on_only_some_of_the_ways_is_read():
    first = "if residual is None:\n    residual = hidden\n"
    assert is_sum(first + "x = self.norm(hidden, residual)\nreturn x, residual")
    other = "else:\n    hidden, residual = self.norm(hidden, residual)\nreturn hidden, residual"
    assert is_sum(first + other)


def test_asking_whether_there_is_a_residual_does_not_read_it():
    body = "if residual is not None:\n    residual = None\nresidual = hidden\n"
    assert not is_sum(body + "return residual + self.mlp(hidden), residual")


def test_a_residual_that_is_handed_on_as_it_came_is_not_read():
    assert not is_sum("return hidden + self.mlp(hidden), residual")


def test_the_residual_may_have_any_name():
    body = "x, skip = self.norm(x, skip)\nreturn self.mlp(x), skip"
    assert is_sum(body, "x, skip")


@pytest.mark.parametrize(
    "returned", ["x, residual, mix", "hidden, (delta, self.mix)", "hidden, self.mix(hidden)"]
)
def test_outputs_of_another_kind_are_refused_with_their_names(returned):
    with pytest.raises(ModelLayoutError, match=r"Layer returns .*use the transformers engine"):
        stream_in(layer(f"return {returned}"), "Layer")


class DelegatingLayer(nn.Module):
    """Returns what another method of its own returns."""

    def forward(self, hidden, residual):
        return self._forward_normal(hidden, residual)

    def _forward_normal(self, hidden, residual):
        return hidden + residual, residual, residual


def test_outputs_that_another_method_returns_are_looked_at_there():
    with pytest.raises(ModelLayoutError, match=r"returns \(hidden \+ residual, residual, residual"):
        read_source(DelegatingLayer)


def test_a_layer_that_computes_otherwise_in_float16_says_so():
    body = "if hidden.dtype == torch.float16:\n    hidden *= self.scale\nreturn hidden"
    assert stream_in(layer(body), "Layer") == StreamSource("Layer", False, True)
    assert read_source(ToyLayer) == StreamSource("ToyLayer", True, False)


def test_a_layer_without_source_is_refused():
    made: dict = {"torch": torch}
    exec("def forward(self, hidden, residual): return hidden, residual", made)
    kind = type("MadeLayer", (nn.Module,), {"forward": made["forward"]})
    with pytest.raises(ModelLayoutError, match=r"source of MadeLayer\.forward cannot be read"):
        read_source(kind)


@cache
def layers_of_vllm():
    """(class name, parsed methods) of each layer of vLLM's models."""
    layers = []
    (root,) = importlib.util.find_spec("vllm").submodule_search_locations
    files = [*Path(root, "model_executor/models").glob("*.py"), *Path(root, "models").rglob("*.py")]
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if not isinstance(node, ast.ClassDef) or not node.name.endswith(("Layer", "Block")):
            continue
        methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        if "forward" in methods and not node.name.endswith(("TokenPredictorLayer", *NO_LAYERS)):
            layers.append((node.name, methods))
    return layers


@pytest.mark.vllm
@has_vllm
def test_of_all_layers_of_vllm_those_that_have_added_their_residual_are_known():
    sums, firsts, refused = set(), set(), set()
    for name, methods in layers_of_vllm():
        given = {argument.arg for argument in methods["forward"].args.args}
        try:
            source = stream_in(methods, name)
        except ModelLayoutError:
            refused.add(name)
            continue
        if source.is_sum:
            sums.add(name)
        elif "residual" in given or name in ADDED_ALREADY:
            firsts.add(name)
    assert firsts == ADDED_ALREADY | WITHOUT_SECOND
    assert len(sums) > 60
    assert refused >= SEVERAL
    for name in ("LlamaDecoderLayer", "Qwen3NextDecoderLayer", "Lfm2AttentionDecoderLayer"):
        assert name in sums


@pytest.mark.vllm
@has_vllm
def test_of_all_layers_of_vllm_those_that_scale_their_stream_in_float16_are_known():
    scaled = set()
    for name, methods in layers_of_vllm():
        try:
            if "residual" in {a.arg for a in methods["forward"].args.args}:
                scaled |= {name} if stream_in(methods, name).is_scaled_in_float16 else set()
        except ModelLayoutError:
            continue
    assert scaled == {"AXK1DecoderLayer", "DeepseekV2DecoderLayer", "OpenPanguDecoderLayer"}
