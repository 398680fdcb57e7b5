"""Run by tests in a process of its own: FOLDER LAYER SETTINGS -> JSON on the last line.

Starts an engine with these settings (JSON) that can steer LAYER alone, and answers uncapped,
capped, under another direction, and uncapped again; one that records answers capped once more, and
reads a conversation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from keel.engines import Recording
from keel.engines.protocol import Engine
from keel.types import Conversation, Floor, Message
from tests.engines.vllm.serving_vllm import GREEDY, band, by_index, prompt, started

PROMPTS = [prompt(text) for text in ("hello there", "what is the sea like")]

TALK = Conversation(
    (
        Message("user", "hello"),
        Message("assistant", "I am the wide sea."),
        Message("user", "and who are you to me?"),
        Message("assistant", "A harbour, one that is calm and deep."),
    )
)


def settings_at(layer: int) -> list[list[Floor]]:
    """What is answered under, in turn."""
    held = band(3.0, layers=range(layer, layer + 1))
    return [[], held, band(3.0, layers=range(layer, layer + 1), seed=5), []]


def measured(engine: Engine, layer: int) -> dict[str, list[Any]]:
    """Means of capped answers and of a conversation's turns, and likelihoods of their tokens."""
    under = settings_at(layer)[1]
    made = engine.generate(
        PROMPTS, GREEDY, seed=0, recording=Recording(means=True), interventions=under
    )
    answers = by_index(made)  # all of them, before the next call breaks this one off
    (read,) = engine.read(
        [TALK], recording=Recording(means=True, log_likelihood=True), interventions=under
    )
    return {
        "generated": [answers[n].activations.means_LD.tolist() for n in range(len(PROMPTS))],
        "read": [turn.activations.means_LD.tolist() for turn in read.turns],
        "norms": [turn.activations.norms_L.tolist() for turn in read.turns],
        "log_likelihoods": [turn.log_likelihood_T.tolist() for turn in read.turns],
    }


def main(folder: str, layer: int, settings: dict[str, Any]) -> None:
    import torch

    with started(Path(folder), layers=(layer,), **settings) as engine:
        answers, fired = [], []
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for interventions in settings_at(layer):
            made = engine.generate(PROMPTS, GREEDY, seed=0, interventions=interventions)
            found = by_index(made)
            answers.append([list(found[n].token_ids) for n in range(len(PROMPTS))])
            fired.append(made.firing.fired if made.firing is not None else None)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
        config = engine.llm.llm_engine.vllm_config
        mode = int(config.compilation_config.mode)
        key = config.compute_hash()
        means = measured(engine, layer) if engine.deployment.recordings else None
    print(json.dumps({"answers": answers, "fired": fired, "new_graphs": graphs, "mode": mode,
                      "key": key, "measured": means}))  # fmt: skip


def run(folder: Path, layer: int, environment: dict[str, str], **settings: Any) -> dict[str, Any]:
    """What such a process found."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.engines.vllm.child_run", str(folder), str(layer)]
    ended = subprocess.run(
        [*command, json.dumps(settings)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
