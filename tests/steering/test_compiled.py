"""torch.compile makes one graph of a steered model, as it does of one with a plain hook."""

import threading

import jaxtyping
import pytest
import torch

from keel.geometry import unit
from keel.steering import steered
from keel.testing import tiny_model
from keel.types import Floor

V = unit(torch.randn(32, generator=torch.Generator().manual_seed(0)))
LENGTHS = (9, 10, 12, 15, 20, 21)


@pytest.fixture(autouse=True)
def _shapes_unchecked():
    """The compiler would trace the checks of shapes, too."""
    jaxtyping.config.update("jaxtyping_disable", True)
    torch.compiler.reset()
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Graphs:
    """A backend that counts the graphs that it is given."""

    def __init__(self):
        self.made = 0

    def __call__(self, graph, _inputs):
        self.made += 1
        return graph.forward


def batch(length: int, *, is_padded: bool):
    ids = torch.randint(10, 90, (2, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return {"input_ids": ids, "use_cache": False, **({"attention_mask": mask} if is_padded else {})}


def graphs(model, backend, *, is_padded: bool) -> int:
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        for length in LENGTHS:
            compiled(**batch(length, is_padded=is_padded))
    return backend.made


@pytest.mark.parametrize("is_padded", [False, True])
def test_texts_of_many_lengths_take_as_many_graphs_as_under_a_plain_hook(is_padded):
    """Once, every length was compiled for itself, up to the limit; a full graph crashed there."""
    hooked = tiny_model("llama")
    hooked.model.layers[1].register_forward_hook(lambda _m, _a, output: output + 1)
    plain = graphs(hooked, Graphs(), is_padded=is_padded)
    torch.compiler.reset()  # or what it learnt of the lengths would spare ours a graph
    model = tiny_model("llama")
    floors = [Floor(1, V, 5.0), Floor(2, V, 5.0)]
    with steered(model, floors) as steering:
        made = graphs(model, Graphs(), is_padded=is_padded)
        slots = sum(2 * length - 3 * is_padded for length in LENGTHS)
        assert steering.firing().slots == {1: slots, 2: slots}
        assert made == plain <= 2  # one for the first shape, one for all


@pytest.mark.parametrize("tokens", ["prompt", "generated"])
def test_a_compiled_model_knows_its_prompt(tokens):
    model, ids = tiny_model("llama"), batch(9, is_padded=True)
    length = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    floors = [Floor(1, V, 3.0, tokens=tokens)]
    given = {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"]}
    with steered(model, floors) as steering:
        plain = model.generate(**given, **length)
        firing = steering.firing()
    model.forward = torch.compile(model.forward, backend="eager")
    with steered(model, floors) as steering:
        assert torch.equal(model.generate(**given, **length), plain)
        assert steering.firing() == firing


def test_threads_share_a_graph_and_count_apart():
    model = tiny_model("llama")
    backend, failures = Graphs(), []
    with steered(model, [Floor(1, V, 5.0)]) as steering:
        compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)

        def run():
            try:
                with torch.no_grad():
                    compiled(**batch(9, is_padded=False))
            except Exception as error:
                failures.append(error)

        for _ in range(2):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        assert steering.firing().slots == {1: 36}
    assert (backend.made, failures) == (1, [])
