"""Axes of the reference implementation: turned the right way, and no code is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from keel.errors import (
    CorruptArtifactError,
    ModelMismatchError,
    UsageError,
)
from keel.store import (
    export_axis_pt,
    load_axis,
)
from keel.types import AssistantAxis, ModelIdentity

CONTRAST = Path(__file__).parents[3] / "shared/data/llama-3.3-70b/contrast_vectors.pt"


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"axis": t, "metadata": {"n": 1}},
        lambda t: {"vector": t, "type": "pos_3", "role": "x"},
    ],
)
def test_every_form_of_the_reference_is_read_in_float32(tmp_path: Path, wrap):
    # half of every number is exact in bfloat16
    vector = torch.arange(12).reshape(3, 4) / 2
    axis = load_axis(saved(wrap(vector.bfloat16()), tmp_path / "assistant_axis.pt"))
    assert axis.vector.dtype == torch.float32
    assert torch.equal(axis.vector, vector)
    assert (axis.identity.layers, axis.identity.hidden_size, axis.layer) == (3, 4, 1)


def test_what_the_file_does_not_say_is_nan_and_said_to_be_unknown(tmp_path: Path):
    axis = load_axis(saved(torch.ones(2, 3), tmp_path / "axis.pt"))
    for unknown in (axis.default_projection, axis.role_projection, axis.residual_norm, axis.gap):
        assert bool(unknown.isnan().all())
    assert axis.provenance["gap"] == "unknown"


@pytest.mark.parametrize(("shape", "layer"), [((46, 4608), 22), ((64, 5120), 32), ((80, 8192), 40)])
def test_the_papers_models_get_the_papers_layer(tmp_path: Path, shape: tuple[int, int], layer: int):
    # a narrow tensor stretched over the shape, so that the file stays small
    path = saved(torch.ones(shape[0], 1).bfloat16().expand(shape), tmp_path / "axis.pt")
    assert load_axis(path).layer == layer
    assert load_axis(path, layer=5).layer == 5


@pytest.mark.skipif(not CONTRAST.exists(), reason="the authors' contrast vectors are not here")
def test_the_authors_contrast_vectors_are_read_and_turned_assistant_ward():
    identity = ModelIdentity("meta-llama/Llama-3.3-70B-Instruct", 80, 8192)
    axis = load_axis(CONTRAST, orientation="role-ward", identity=identity)
    published = torch.load(CONTRAST, weights_only=True).float()
    assert torch.equal(axis.vector, -published)
    norms = {layer: float(axis.vector[layer].norm()) for layer in (32, 40, 56, 79)}
    # the authors' own numbers for Llama 3.3 70B
    assert norms == pytest.approx({32: 1.006, 40: 1.526, 56: 2.673, 79: 5.904}, abs=1e-3)
    assert (axis.layer, axis.identity) == (40, identity)
    with pytest.raises(UsageError, match="contrast vectors were published role-ward"):
        load_axis(CONTRAST)
    wrong = load_axis(CONTRAST, orientation="assistant-ward")
    with pytest.raises(UsageError, match="points away from the axis given as reference"):
        load_axis(CONTRAST, orientation="assistant-ward", reference=axis)
    with pytest.raises(UsageError, match="median cosine -1.00"):
        load_axis(CONTRAST, orientation="role-ward", reference=wrong)


def test_the_sign_is_held_against_the_two_means_which_tell_the_gap(tmp_path: Path):
    default_LD = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    role_mean_LD = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    path = saved(default_LD - role_mean_LD, tmp_path / "axis.pt")
    means = {"default_LD": default_LD, "role_mean_LD": role_mean_LD}
    axis = load_axis(path, **means)
    # directions are the unit axes, so projections are the means' own coordinates
    assert axis.default_projection.tolist() == [3.0, 5.0]
    assert axis.role_projection.tolist() == [1.0, 1.0]
    assert axis.in_gaps(2.0, 0) == 0.5
    with pytest.raises(UsageError, match='points away from default minus role.*"role-ward"'):
        load_axis(path, orientation="role-ward", **means)


def test_a_trusted_axis_of_another_model_is_refused(tmp_path: Path, axis: AssistantAxis):
    path = saved(torch.ones(2, 3), tmp_path / "axis.pt")
    with pytest.raises(ModelMismatchError, match=r"\[4, 6\], the axis \[2, 3\]"):
        load_axis(path, reference=axis)


def test_an_axis_of_another_shape_than_the_model_is_refused(
    tmp_path: Path, identity: ModelIdentity
):
    path = saved(torch.ones(4, 5), tmp_path / "axis.pt")
    with pytest.raises(ModelMismatchError, match="4 layers × 5 .* against 4 × 6 .tiny."):
        load_axis(path, identity=identity)


@pytest.mark.parametrize("tensor", [torch.ones(6), torch.ones(1, 4, 6), torch.ones(4, 6).long()])
def test_what_is_no_axis_of_all_layers_is_refused(tmp_path: Path, tensor: torch.Tensor):
    with pytest.raises(UsageError, match=r"expected floats \[layers, hidden\]"):
        load_axis(saved(tensor, tmp_path / "axis.pt"))


@pytest.mark.parametrize("content", [{"pca": 1}, [torch.ones(2, 2)], "text"])
def test_a_file_without_an_axis_says_what_it_holds(tmp_path: Path, content: object):
    with pytest.raises(CorruptArtifactError, match="holds a (dict|list|str)"):
        load_axis(saved(content, tmp_path / "axis.pt"))


class Evil:
    """What a pickle may do: run a command while it is read."""

    def __reduce__(self):
        return (os.system, (f"touch '{os.environ['KEEL_TEST_PROOF']}'",))


def test_a_pickle_that_carries_code_is_refused_and_the_code_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    proof = tmp_path / "the code ran"
    monkeypatch.setenv("KEEL_TEST_PROOF", str(proof))
    path = saved({"axis": torch.ones(2, 2), "metadata": Evil()}, tmp_path / "axis.pt")
    with pytest.raises(CorruptArtifactError, match="Keel runs no code from files"):
        load_axis(path)
    assert not proof.exists()


@pytest.mark.parametrize("kept", [0, 10, 600, -1])
def test_a_truncated_pt_file_is_refused(tmp_path: Path, kept: int):
    path = saved(torch.ones(20, 20), tmp_path / "axis.pt")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptArtifactError, match=r"axis\.pt"):
        load_axis(path)


def test_an_axis_goes_out_and_comes_back_with_its_length(tmp_path: Path, axis: AssistantAxis):
    export_axis_pt(axis, tmp_path / "assistant_axis.pt")
    content = torch.load(tmp_path / "assistant_axis.pt", weights_only=True)
    assert list(content) == ["axis"]
    assert torch.equal(load_axis(tmp_path / "assistant_axis.pt").vector, axis.vector)
