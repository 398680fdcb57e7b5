"""Isolates calls into lm-eval: no output, no changed random state afterwards."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from keel.evaluate.capability.sentence_rules import rules_for

_LOGGERS = ("lm_eval", "datasets", "huggingface_hub")


@contextmanager
def isolated(seed: int, task: str) -> Iterator[None]:
    """Surrounds a call into lm-eval: seeded, with its data there, and silent.

    Every generator is seeded, the task's rules of sentences are there, and what lm-eval prints is
    kept from the user.

    Its tasks draw from the global generators, and one prints to stdout for each bad answer.
    """
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(without_logs())
        stack.enter_context(rules_for(task))
        stack.enter_context(seeded(seed))
        yield


@contextmanager
def without_logs() -> Iterator[None]:
    """Keeps the libraries' log lines below an error from stderr."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's generators start at the seed.

    They go on afterwards where they were. So does langdetect, whose guesses differ from call to
    call without one.
    """
    import numpy as np
    import torch

    guesses: Any = SimpleNamespace(seed=None)
    if find_spec("langdetect") is not None:  # a task that needs it says so
        guesses = import_module("langdetect").DetectorFactory
    python, arrays, guessing = random.getstate(), np.random.get_state(), guesses.seed
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            guesses.seed = seed
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
            guesses.seed = guessing
