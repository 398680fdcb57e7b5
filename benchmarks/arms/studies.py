"""Conversations of a drift study: recorded or not, prompts kept or computed whole, many or one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.arms.generating import endless_engine
from benchmarks.measuring import in_turn, narrate, peak_bytes, timed
from keel.engines import Probe, Recording
from keel.geometry import unit
from keel.prompts import load_user_lines
from keel.studies import MessageTable, TurnPoint, cluster_messages, predict_levels
from keel.types import NEUTRAL_DOMAIN, Conversation, Message, Prompt, Sampling

_DIMENSIONS = 384
_LINES = 30


def talking(*, repeats: int, rows: int, turns: int, new_tokens: int) -> dict[str, Any]:
    """Conversations turn by turn under each way, and how many prompt tokens each computed."""
    import torch

    engine = endless_engine()
    draws = torch.Generator().manual_seed(0)
    direction = unit(torch.randn(engine.decoder.hidden_size, generator=draws))
    recording = Recording(means=True, prompt=True, probes=(Probe(engine.layers - 4, direction),))
    lines = [line.text for line in load_user_lines() if line.domain == NEUTRAL_DOMAIN]
    computed: dict[str, list[int]] = {}

    def talk(way: str, count: int, recorded: Recording, *, keeps: bool) -> None:
        before = engine.prompt_tokens.given, engine.prompt_tokens.computed
        asked = [Prompt(str(n), Conversation((Message("user", lines[n]),))) for n in range(count)]
        with engine.keeping_prompts() if keeps else nullcontext():
            for turn in range(turns):
                seeds = [100 * turn + n for n in range(count)]
                answers = engine.generate(
                    asked, Sampling(new_tokens), seed=seeds, recording=recorded
                )
                for answer in sorted(answers, key=lambda answer: answer.index):
                    prompt = asked[answer.index]
                    said = prompt.conversation.with_reply(answer.text, answer.token_ids)
                    following = said.with_user(lines[(answer.index + turn + 1) % len(lines)])
                    asked[answer.index] = Prompt(prompt.id, following)
        given, made = engine.prompt_tokens.given, engine.prompt_tokens.computed
        computed[way] = [given - before[0], made - before[1]]

    plain = Recording()
    ways = {
        "together": lambda: talk("together", rows, plain, keeps=True),
        "together, recorded": lambda: talk("together, recorded", rows, recording, keeps=True),
        "together, prompts whole": lambda: talk("whole", rows, plain, keeps=False),
        "one alone": lambda: talk("one alone", 1, plain, keeps=True),
    }
    talk("warm", 2, recording, keeps=True)
    arms = {way: (lambda work=work: timed(work)) for way, work in ways.items()}
    rounds = in_turn(arms, repeats, lambda *done: narrate("studies", *done))
    return {
        "rounds": {arm: [asdict(one) for one in found] for arm, found in rounds.items()},
        "dtype": engine.identity.dtype,
        "computed": computed,
        "peak_bytes": peak_bytes(),
    }


def analysing(*, messages: int, permutations: int) -> dict[str, Any]:
    """Prediction with nulls, and clusters, of so many messages of a planted world."""
    table = _table(messages)
    began = time.process_time()
    rows = predict_levels(table, permutations=permutations)
    clusters = cluster_messages(table, lambda _texts, _members, count: [""] * count)
    taken_s = time.process_time() - began  # of one thread: a busy machine does not count
    return {"seconds": taken_s, "rows": len(rows), "clusters": len(clusters)}


def _table(messages: int) -> MessageTable:
    """Four domains x five people x ten topics x turns; words decide half of the level."""
    chance = np.random.default_rng(0)
    turns = messages // 200
    vectors = {}
    points = []
    for domain in ("coding", "writing", "therapy", "philosophy"):
        for person in range(5):
            for topic in range(10):
                for turn, line in enumerate(chance.permutation(_LINES)[:turns]):
                    text = f"{domain} {line} {person} {topic}"
                    base = vectors.setdefault((domain, line), chance.standard_normal(_DIMENSIONS))
                    vectors[text] = base + 0.3 * chance.standard_normal(_DIMENSIONS)
                    level = float(0.1 * vectors[text][:50].sum() + chance.standard_normal())
                    name = f"{domain}-{person}"
                    points.append(
                        TurnPoint(
                            "none",
                            domain,
                            name,
                            f"{name}-{topic}",
                            turn,
                            level,
                            level,
                            level,
                            40,
                            text,
                            prompt=level + float(chance.standard_normal()),
                        )
                    )

    def embed(texts: Sequence[str]) -> Any:
        return np.stack([vectors[text] for text in texts])

    return MessageTable.of(points, embed)
