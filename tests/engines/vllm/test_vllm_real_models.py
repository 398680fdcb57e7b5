"""Both engines on real weights, in float32: the same words, the same numbers."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from keel.engines import EMBEDDED, Probe, Recording, open_engine
from keel.geometry import unit
from keel.types import Conversation, Floor, Message, Prompt, Sampling
from tests.engines.vllm.serving_vllm import by_index, started

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(900),
]

_SAMPLING = Sampling(max_new_tokens=16, temperature=0)


def prompts():
    """Twenty, half of them in a role, of many lengths."""
    from keel.prompts import load_library

    questions = [question.text for question in load_library().questions[:20]]
    ghost = Message("system", "You are the ghost of a lighthouse keeper.")
    return [
        Prompt(f"q{n}", Conversation((*([ghost] if n % 2 else []), Message("user", text))))
        for n, text in enumerate(questions)
    ]


def floors_along(engine, asked):
    """Floors on five layers at heights that about half of the tokens are under."""
    draws = torch.Generator().manual_seed(0)
    layers = range(engine.layers * 2 // 3, engine.layers * 2 // 3 + 5)
    probes = [Probe(n, unit(torch.randn(engine.identity.hidden_size, generator=draws)))
              for n in layers]  # fmt: skip
    recording = Recording(probes=tuple(probes))
    first = engine.generate(asked[:8], _SAMPLING, seed=0, recording=recording)
    heights = torch.cat([one.projections_TK for one in first])
    middle = heights.median(0).values.tolist()
    return [Floor(p.layer, p.direction, m) for p, m in zip(probes, middle, strict=True)]


@pytest.mark.parametrize("model", ["smollm2", "gemma3-270m"])
def test_both_engines_give_the_same_words_and_numbers_uncapped_and_capped(model):
    if importlib.util.find_spec(EMBEDDED[model].package) is None:
        pytest.skip(f"{EMBEDDED[model].requirement} is not installed")
    asked = prompts()
    plain = open_engine(model, dtype="float32", device="cpu")
    floors = floors_along(plain, asked)
    recording = Recording(means=True, probes=tuple(Probe(f.layer, f.direction) for f in floors))
    with started(model, max_model_len=512) as engine:
        for interventions in ([], floors):
            call = {"seed": 0, "recording": recording, "interventions": interventions}
            made, expected = (one.generate(asked, _SAMPLING, **call) for one in (engine, plain))
            ours, theirs = by_index(made), by_index(expected)
            for place, one in theirs.items():
                assert ours[place].token_ids == one.token_ids
                assert ours[place].finish == one.finish
                means = one.activations.means_LD
                apart = (ours[place].activations.means_LD - means).norm(dim=-1)
                assert float((apart / means.norm(dim=-1)).max()) < 1e-4
                scale = float(one.projections_TK.abs().max())
                gap = (ours[place].projections_TK - one.projections_TK).abs().max()
                assert float(gap) < 1e-4 * scale
        assert made.firing.by_layer == pytest.approx(expected.firing.by_layer, rel=1e-3)
        assert 0.1 < made.firing.rate < 0.9
