"""The usual second pass: a transformers model that reads tokens again, every layer's output kept.

A process of its own, idle between its rounds: reads a JSON line, reads tokens, writes a JSON line.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.arms.reading import BATCH, dummy, load, span_means
from benchmarks.arms.texts import MODEL, Given
from benchmarks.measuring import timed
from keel.engines.catalogue import locate
from keel.types import Conversation, Message

_NOBODY = Conversation((Message("user", ""),))


def main(folder: str | None, device: str) -> None:
    """Serve rounds until stdin ends; with a folder, on dummy weights of its config."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    device = "cpu" if device == "cpu" else "cuda"
    model = load(locate(MODEL), "bfloat16") if folder is None else dummy(folder, device)
    model = model.to(device)
    _say(answers, {"ready": True})
    for line in sys.stdin:
        given = [
            Given(_NOBODY, ids, [[start, len(ids)]]) for ids, start in json.loads(line)["read"]
        ]
        batches = [given[n : n + BATCH] for n in range(0, len(given), BATCH)]
        taken = timed(lambda batches=batches: [span_means(model, batch) for batch in batches])
        _say(answers, asdict(taken))


def _say(answers: Any, record: dict[str, Any]) -> None:
    answers.write(json.dumps(record) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*(sys.argv[1:] or (None, "cpu")))
