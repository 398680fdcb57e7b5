"""Keel's engine on the real vLLM: what it answers and records, and for whom."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace

import pytest
import torch

from keel.engines import Batch, Engine, Probe, Recording, open_engine
from keel.errors import UsageError
from keel.geometry import unit
from keel.rollouts import answer_prompts
from keel.steering import Ablation, Addition, Ceiling
from keel.types import Conversation, Floor, Message, Sampling
from tests.engines.result_claims import CLAIMS
from tests.engines.vllm.serving_vllm import (
    GREEDY,
    HIDDEN,
    LAYERS,
    assert_near,
    band,
    by_index,
    on_equal_rounding,
    prompt,
    started,
    tiny,
)

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

PROMPTS = [prompt(text) for text in ("hello there", "a", "what is the sea like", "go on")]
HIGH = 3.0
"""A floor that most tokens of the tiny models are under."""
KL_TOLERANCE = 1e-2 if torch.cuda.is_available() else 1e-3
"""Relative; on a GPU vLLM's attention rounds float32 to TF32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def plain(folder):
    return open_engine(str(folder), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def engine(folder):
    with started(folder) as engine:
        yield engine


def probes(count=2):
    return tuple(Probe(n, band(0.0, seed=7)[0].direction) for n in range(count))


def test_it_keeps_the_protocol(engine):
    assert isinstance(engine, Engine)


@on_equal_rounding
@pytest.mark.parametrize(
    "interventions",
    [
        [],
        band(HIGH),
        [Ceiling(1, band(0.0)[0].direction, -HIGH)],
        [Addition(0, band(0.0)[0].direction, 2.0), *band(HIGH, seed=3)],
        [Ablation(2, band(0.0)[0].direction, 1.5)],
        [Floor(2, band(0.0)[0].direction, HIGH, "prompt")],
        [Floor(2, band(0.0)[0].direction, HIGH, "generated")],
        [Floor(2, band(0.0)[0].direction, HIGH, "not_first")],
    ],
    ids=[
        "plain",
        "floors",
        "ceiling",
        "addition+floors",
        "ablation",
        "prompt",
        "generated",
        "not first",
    ],
)
def test_both_engines_answer_alike_and_record_the_same(engine, plain, interventions):
    recording = Recording(means=True, probes=probes())
    asked = {"seed": 0, "recording": recording, "interventions": interventions}
    made, expected = (one.generate(PROMPTS, GREEDY, **asked) for one in (engine, plain))
    ours, theirs = by_index(made), by_index(expected)
    for place, one in theirs.items():
        assert ours[place].token_ids == one.token_ids
        assert ours[place].finish == one.finish
        assert ours[place].activations.tokens == one.activations.tokens
        assert_near(ours[place].activations.means_LD, one.activations.means_LD)
        assert_near(ours[place].activations.norms_L, one.activations.norms_L)
        assert_near(ours[place].projections_TK, one.projections_TK)
    if interventions:
        assert made.firing.by_layer == pytest.approx(expected.firing.by_layer)


def test_both_engines_record_the_prompts_last_token(engine, plain):
    """Twice by vLLM: the second time the rest of each prompt lies in its prefix cache."""
    asked = {"seed": 0, "recording": Recording(means=True, prompt=True, probes=probes())}
    expected = by_index(plain.generate(PROMPTS, GREEDY, **asked))
    for made in (by_index(engine.generate(PROMPTS, GREEDY, **asked)) for _ in range(2)):
        for index, one in expected.items():
            ours = made[index]
            assert_near(ours.prompt_K, one.prompt_K)
            assert_near(ours.projections_TK, one.projections_TK)
            assert_near(ours.activations.means_LD, one.activations.means_LD)


@pytest.mark.parametrize("probes", [(), probes()], ids=["not recorded", "recorded"])
def test_stop_strings_end_answers_as_on_the_other_engine(engine, plain, probes):
    """The stop stands in the middle of the first answer."""
    recording = Recording(probes=probes)
    text = by_index(plain.generate(PROMPTS, GREEDY, seed=0))[0].text
    stopping = replace(GREEDY, stop=(text[len(text) // 2 :][:3],))
    ours = by_index(engine.generate(PROMPTS, stopping, seed=0, recording=recording))
    theirs = by_index(plain.generate(PROMPTS, stopping, seed=0, recording=recording))
    assert len(theirs[0].text) < len(text)
    for place, one in theirs.items():
        assert (ours[place].text, ours[place].finish) == (one.text, one.finish)
        assert ours[place].token_ids == one.token_ids
        if probes:
            assert_near(ours[place].projections_TK, one.projections_TK)


@pytest.mark.parametrize("prompt", [False, True], ids=["turns", "prompts too"])
def test_reading_agrees_with_the_other_engine_turn_by_turn(engine, plain, prompt):
    talk = Conversation(
        (
            Message("user", "hello"),
            Message("assistant", "I am the sea, and I am wide."),
            Message("user", "go on"),
            Message("assistant", "There is nothing more."),
        )
    )
    recording = Recording(means=True, prompt=prompt, probes=probes(), log_likelihood=True)
    asked = {"recording": recording, "interventions": () if prompt else band(HIGH)}
    read, expected = (one.read([talk], **asked) for one in (engine, plain))
    (ours,), (theirs,) = read, expected
    for mine, other in zip(ours.turns, theirs.turns, strict=True):
        assert (mine.turn, mine.token_ids) == (other.turn, other.token_ids)
        assert_near(mine.activations.means_LD, other.activations.means_LD)
        assert_near(mine.projections_TK, other.projections_TK)
        assert_near(mine.log_likelihood_T, other.log_likelihood_T)
        assert (mine.prompt_K is None) == (other.prompt_K is None) == (not prompt)
        if prompt:
            assert_near(mine.prompt_K, other.prompt_K)
    if prompt:
        with pytest.raises(UsageError, match="without interventions only"):
            list(engine.read([talk], recording=recording, interventions=band(HIGH)))
        return
    assert read.firing.slots == expected.firing.slots
    assert read.firing.fired == expected.firing.fired


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_it_says_of_each_call(engine, claim):
    claim(engine)


def test_divergence_agrees_with_the_other_engine(engine, plain):
    talk = Conversation((Message("user", "hello"), Message("assistant", "I am the wide sea.")))
    settings = [band(HIGH), band(HIGH, seed=5)]
    ours = {(d.index, d.setting): d for d in engine.divergence([talk], settings)}
    theirs = {(d.index, d.setting): d for d in plain.divergence([talk], settings)}
    assert ours.keys() == theirs.keys()
    for key, one in theirs.items():
        assert ours[key].tokens == one.tokens
        assert one.kl > 0
        assert ours[key].kl == pytest.approx(one.kl, rel=KL_TOLERANCE, abs=1e-6)


def test_a_floor_holds_at_every_generated_token(engine):
    direction = band(0.0)[0].direction
    recording = Recording(probes=(Probe(2, direction),))
    held = by_index(
        engine.generate(
            PROMPTS, GREEDY, seed=0, recording=recording, interventions=[Floor(2, direction, HIGH)]
        )
    )
    for one in held.values():
        assert float(one.projections_TK.min()) >= HIGH * (1 - 1e-3)


def test_requests_of_one_batch_each_have_their_own_setting(engine):
    """Several settings at once, and none: each answers as it does alone."""
    settings = [[], band(HIGH), band(HIGH, seed=5), [Addition(0, band(0.0)[0].direction, 3.0)]]
    alone = [by_index(engine.generate(PROMPTS, GREEDY, seed=0, interventions=s)) for s in settings]
    assert len({alone[n][2].token_ids for n in range(4)}) == 4  # the settings do differ
    with pytest.MonkeyPatch.context() as patch:
        mixed = _mixed(engine, settings, patch)
    for (number, place), tokens in mixed.items():
        assert tokens == alone[number][place].token_ids


def _mixed(engine, settings, patch):
    """All prompts under all settings in one go, through the engine's own queue."""
    from keel.engines.vllm.packing import PackedInterventions
    from keel.engines.vllm.requests import RecordedRequest

    names = ["none", "one", "two", "three"]
    for name, interventions in zip(names[1:], settings[1:], strict=True):
        engine.workers.call(
            "register", name, PackedInterventions.of(name, interventions).to_bytes()
        )
    asked, who = [], {}
    for number, place in itertools.product(range(4), range(len(PROMPTS))):
        one = RecordedRequest(
            number * 10 + place,
            engine.template.prompt_ids(PROMPTS[place].conversation),
            engine._sampling(GREEDY, 0, ()),
            (),
        )
        asked.append(one)
        who[one.index] = names[number]
    submit = engine.queue.submit
    patch.setattr(engine.queue, "submit", lambda one, _name: submit(one, who[one.index]))
    found = {}
    for finished in engine.queue.run(asked, "none"):
        for one, output in finished:
            tokens = engine._completion(one, output, {}, Recording(), GREEDY).token_ids
            found[one.index // 10, one.index % 10] = tokens
    for name in names[1:]:
        engine.workers.call("register", name, b"")
    return found


LONG = prompt(" ".join(["the sea is wide and the ship is small"] * 12), "long")


def test_requests_of_one_setting_share_their_cached_prompt(engine):
    """Isolation must not cost the reuse: the second request finds the first one's keys."""
    from keel.engines.vllm.packing import PackedInterventions
    from keel.engines.vllm.requests import RecordedRequest

    engine.workers.call(
        "register", "shared", PackedInterventions.of("shared", band(HIGH)).to_bytes()
    )
    ids = engine.template.prompt_ids(LONG.conversation)
    cached = []
    for name in ("shared", "shared", "none"):
        asked = [RecordedRequest(0, ids, engine._sampling(GREEDY, 0, ()), ())]
        ((_, output),) = next(engine.queue.run(asked, name))
        cached.append(output.num_cached_tokens)
    engine.workers.call("register", "shared", b"")
    assert cached[0] == 0
    assert cached[1] > len(ids) // 2
    assert cached[2] == 0


def test_what_is_recorded_does_not_depend_on_the_prefix_cache(engine):
    recording = Recording(means=True, probes=probes())
    first, second = (
        next(iter(engine.generate([LONG], GREEDY, seed=0, recording=recording))) for _ in range(2)
    )
    assert first.token_ids == second.token_ids
    torch.testing.assert_close(first.activations.means_LD, second.activations.means_LD)
    torch.testing.assert_close(first.projections_TK, second.projections_TK)


def test_an_answer_that_nobody_waits_for_leaves_no_trace(engine):
    """Its rows are free again: without that, an engine that is interrupted a few times is full."""
    hold = engine.llm.llm_engine.model_executor.driver_worker.worker.keel_worker
    for _ in range(3):
        answers = engine.generate(PROMPTS, GREEDY, seed=0, recording=Recording(means=True))
        next(answers)
        answers.close()
        assert len(hold.book.free) == engine.deployment.recordings
        assert hold.names == {}
    again = by_index(engine.generate(PROMPTS, GREEDY, seed=0, recording=Recording(means=True)))
    assert sorted(again) == [0, 1, 2, 3]


def test_sampling_follows_the_seed_and_the_prompt(engine):
    warm = Sampling(max_new_tokens=12, temperature=1.0, top_p=1.0)
    once = by_index(engine.generate(PROMPTS, warm, seed=1))
    alone = by_index(engine.generate(PROMPTS[2:3], warm, seed=1))
    other = by_index(engine.generate(PROMPTS, warm, seed=2))
    assert once[2].token_ids == alone[0].token_ids
    assert [once[n].token_ids for n in range(4)] != [other[n].token_ids for n in range(4)]


def test_prompts_are_made_ready_as_room_is_found_for_them(engine, monkeypatch):
    """A whole run comes in one call: 331,200 prompts would take minutes before the first answer."""
    ready, prompt_ids = [], engine.template.prompt_ids
    monkeypatch.setattr(engine.template, "prompt_ids", lambda c: ready.append(c) or prompt_ids(c))
    monkeypatch.setattr(engine.queue, "room", 1)
    answers = engine.generate(PROMPTS, GREEDY, seed=0, recording=Recording(means=True))
    assert next(answers).index == 0
    assert len(ready) == 2  # one in work, and the one that waits for its place
    assert [one.index for one in answers] == [1, 2, 3]


def test_batches_rolled_into_one_call_are_answered_as_each_alone(engine):
    """So a run that was killed between two batches ends as one that was not."""
    warm = Sampling(max_new_tokens=12, temperature=1.0, top_p=1.0)
    batches = [Batch(0, (0, 1)), Batch(1, (2, 3))]
    rolled = {b.number: b for b in answer_prompts(engine, PROMPTS, batches, warm, seed=1)}
    for number in (0, 1):
        (alone,) = answer_prompts(engine, PROMPTS, batches, warm, seed=1, done={1 - number})
        assert [r.token_ids for r in alone.rollouts] == [
            r.token_ids for r in rolled[number].rollouts
        ]
        expected = rolled[number].activations.means_BLD
        assert_near(alone.activations.means_BLD, expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([Floor(LAYERS, unit(torch.ones(HIDDEN)), 1.0)], "layers"),
        ([Floor(1, unit(torch.ones(HIDDEN * 2)), 1.0)], "residual stream has 128"),
        ([Floor(1, unit(torch.ones(HIDDEN)), 1.0)] * 3, "steps=3"),
    ],
    ids=["no such layer", "another width", "too many at a layer"],
)
def test_interventions_that_cannot_be_applied_are_refused(engine, wrong, message):
    with pytest.raises(Exception, match=message):
        list(engine.generate(PROMPTS, GREEDY, seed=0, interventions=wrong))
    assert by_index(engine.generate(PROMPTS, GREEDY, seed=0))  # and it goes on


def test_of_a_conversation_that_grows_little_more_than_its_new_prompt_tokens_is_computed(
    folder, monkeypatch
):
    """By vLLM's own count of cached tokens: 8 conversations of 5 turns, recorded. Blocks of 32
    tokens are kept whole, so that up to 31 of each turn are computed again."""
    counts = []
    with started(folder, max_model_len=2048, arguments={"block_size": 32}) as engine:
        own = engine._completion

        def counting(request, output, *rest):
            counts.append((request.index, len(request.token_ids), output.num_cached_tokens or 0))
            return own(request, output, *rest)

        monkeypatch.setattr(engine, "_completion", counting)
        recording = Recording(means=True, prompt=True, probes=probes())
        asked = [prompt(f"talk {n}: " + "the sea is wide and far " * 6) for n in range(8)]
        for turn in range(5):
            answers = by_index(engine.generate(asked, GREEDY, seed=turn, recording=recording))
            asked = [
                replace(
                    each,
                    conversation=each.conversation.with_reply(
                        answers[n].text, answers[n].token_ids
                    ).with_user(f"turn {turn}: " + "and what do you say to that " * 5),
                )
                for n, each in enumerate(asked)
            ]
    unique = sum(length for _, length, _ in counts[-8:])
    computed = sum(length - cached for _, length, cached in counts)
    whole = sum(length for _, length, _ in counts)
    assert computed <= 1.1 * unique, (computed, unique, whole)
    assert whole > 2 * unique
