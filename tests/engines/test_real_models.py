"""On both models of the registry: what tiny random ones promise holds on trained weights."""

from __future__ import annotations

import json

import pytest
import torch

import keel
from keel.engines import Recording
from keel.engines.catalogue import locate
from keel.engines.transformers import TransformersEngine
from keel.errors import ModelLoadError
from keel.geometry import unit
from keel.types import Conversation, Floor, Message, Prompt, Sampling
from tests.engines.llama_cpp_ids import RECORD, TEXTS

pytestmark = pytest.mark.real

SHAPES = {"smollm2": (30, 576), "gemma3-270m": (18, 640)}
LAYERS = (9, 10, 11)
ASKED = ["Where does a river end?", "Name three tools that a carpenter owns, and why.", "Hello!"]


@pytest.fixture(scope="module", params=sorted(SHAPES))
def alias(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    try:
        locate(name)
    except ModelLoadError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture(scope="module")
def engine(alias: str) -> TransformersEngine:
    made = keel.open_engine(alias, device="cpu", dtype="float32")
    assert isinstance(made, TransformersEngine)
    return made


def prompts() -> list[Prompt]:
    said = [Message("system", "You are a ghost.")]
    talks = [Conversation((*said, Message("user", text))) for text in ASKED]
    return [Prompt(f"q{n}", talk) for n, talk in enumerate(talks)]


def band(engine: TransformersEngine, value: float) -> list[Floor]:
    hidden = engine.identity.hidden_size
    chance = torch.Generator().manual_seed(7)
    return [Floor(n, unit(torch.randn(hidden, generator=chance)), value) for n in LAYERS]


def test_the_blocks_are_found(alias, engine):
    layers, hidden = SHAPES[alias]
    assert (engine.layers, engine.decoder.hidden_size) == (layers, hidden)
    assert (engine.identity.model_id, engine.identity.layers) == (alias, layers)
    assert engine.decoder.path == "model.layers"


def test_texts_become_the_tokens_of_llama_cpp(alias, engine):
    """On 193 texts; 24 differed for SmolLM2, by digits, and all but one for Gemma, by the first."""
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))[alias]
    tokenized = engine.tokenizer(TEXTS)["input_ids"]
    different = [
        text for text, ids, known in zip(TEXTS, tokenized, recorded, strict=True) if ids != known
    ]
    assert different == []


def test_what_its_template_does_is_told(alias, engine):
    """The one puts a system prompt in; the other was never taught to chat and gets plain text."""
    facts = engine.template_facts()
    text = engine.tokenizer.decode(engine.template.prompt_ids(prompts()[0].conversation))
    if alias == "smollm2":
        assert "SmolLM" in facts["system prompt put in when none is given"]
        assert text.startswith("<|im_start|>system\nYou are a ghost.<|im_end|>\n")
        assert text.endswith("<|im_start|>assistant\n")
    else:
        assert facts["kind"] == "plain text (the model has no chat template)"
        # The token that begins every text comes once.
        assert text == f"<bos>You are a ghost.\n\n{ASKED[0]}\n\n"


def test_an_answer_that_was_begun_is_gone_on_with(alias, engine):
    beginning = Conversation((Message("assistant", "My job is to"),))
    text = engine.tokenizer.decode(engine.template.prompt_ids(beginning))
    if alias == "smollm2":
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\nMy job is to")
    else:
        assert text == "<bos>My job is to"
    greedy = Sampling(max_new_tokens=8, temperature=0)
    (completion,) = engine.generate([Prompt("p", beginning)], greedy, seed=0)
    assert completion.text.startswith(" ")  # the next word, and nothing said twice
    assert "My job is to" not in completion.text


def test_floors_hold_at_every_token_prompt_and_generated(engine):
    floors = band(engine, 0.0)
    ids = torch.tensor([engine.template.prompt_ids(prompts()[0].conversation)])
    plain = projections(engine, floors, lambda: engine.model(input_ids=ids))
    # Above every token but one, so that nearly all are moved.
    floors = [Floor(f.layer, f.direction, float(plain[f.layer].abs().max())) for f in floors]
    length = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    with keel.steered(engine.model, floors) as steering:
        held = projections(engine, floors, lambda: engine.model.generate(input_ids=ids, **length))
        slots = steering.firing().slots
    tokens = ids.shape[1] + 5  # the last one sampled is not run
    for floor in floors:
        assert held[floor.layer].shape == (tokens,)
        assert float(held[floor.layer].min()) == pytest.approx(floor.value, rel=1e-3)
    assert slots == dict.fromkeys(LAYERS, tokens)
    assert torch.equal(
        projections(engine, floors, lambda: engine.model(input_ids=ids))[9], plain[9]
    )


def projections(engine: TransformersEngine, floors: list[Floor], run) -> dict[int, torch.Tensor]:
    """What the blocks put out at each token while `run` runs, on each floor's direction."""
    seen: dict[int, list[torch.Tensor]] = {floor.layer: [] for floor in floors}
    handles = []
    for floor in floors:

        def keep(_block, _args, output, floor=floor):
            stream_TD = engine.decoder.layout.stream_in(output)[0]
            seen[floor.layer].append(stream_TD.double() @ floor.direction.double())

        handles.append(engine.decoder.blocks[floor.layer].register_forward_hook(keep))
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return {layer: torch.cat(parts) for layer, parts in seen.items()}


@pytest.mark.parametrize("is_held", [False, True], ids=["let go", "held"])
def test_generating_and_reading_record_the_same_of_the_same_tokens(engine, is_held):
    floors = band(engine, 2.0) if is_held else []
    asked = prompts()
    recording = Recording(means=True)
    sampling = Sampling(max_new_tokens=12, temperature=0.7)
    done = {
        c.index: c
        for c in engine.generate(asked, sampling, seed=3, recording=recording, interventions=floors)
    }
    given = [
        p.conversation.with_reply(done[n].text, done[n].token_ids) for n, p in enumerate(asked)
    ]
    readings = list(engine.read(given, recording=recording, interventions=floors))
    assert sorted(r.index for r in readings) == [0, 1, 2]
    for reading in readings:
        (turn,) = reading.turns
        assert turn.token_ids == done[reading.index].token_ids
        # Norms differ a thousandfold between layers, so each layer's error is set against its own.
        generated_LD = done[reading.index].activations.means_LD
        error_L = (turn.activations.means_LD - generated_LD).norm(dim=-1)
        assert float((error_L / generated_LD.norm(dim=-1)).max()) < 1e-3
