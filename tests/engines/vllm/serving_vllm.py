"""Starts real engines for the tests of this folder; vLLM runs in this very process."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from keel.engines import Completion
from keel.testing import save_tiny_model
from keel.types import Conversation, Floor, Message, Prompt, Sampling

HIDDEN, LAYERS = 128, 4
"""vLLM's attention on the CPU wants heads of 32 or more."""
GREEDY = Sampling(max_new_tokens=12, temperature=0)


def tiny(folder: Path, family: str = "llama", **shape: int) -> Path:
    """A tiny random checkpoint that vLLM can serve."""
    return save_tiny_model(folder / family, family, **{"hidden": HIDDEN, "layers": LAYERS, **shape})


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Shapes of arguments are not checked here: not every torch can trace the check."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def started(folder: Path | str, **settings: Any) -> Iterator[Any]:
    """Keel's engine on that checkpoint, eager and in float32 unless asked otherwise."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from keel.engines.vllm import VllmSettings, load_engine

    asked = {"dtype": "float32", "eager": True, "max_model_len": 512, **settings}
    if torch.cuda.is_available():  # where other engines may start beside it, and none measures
        asked = {"memory_share": 0.05, **asked}
        asked["arguments"] = {"kv_cache_memory_bytes": 2**28, **asked.get("arguments", {})}
    with unchecked_shapes() if not asked["eager"] else nullcontext():
        engine = load_engine(str(folder), VllmSettings(**asked))
    try:
        yield engine
    finally:
        engine.close()
        del engine
        gc.collect()


def prompt(text: str, id: str = "") -> Prompt:
    """One user message, to be answered."""
    return Prompt(id or text, Conversation((Message("user", text),)))


on_equal_rounding = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="on a GPU near ties send two engines' answers apart; test_vllm_on_gpu reads them again",
)


def assert_near(actual: Any, expected: Any) -> None:
    """Two engines' numbers of the same tokens, of which each row is a vector.

    On a GPU vLLM's attention rounds float32 to TF32: rows are up to 2.5e-3 of their length apart.
    """
    if not torch.cuda.is_available():
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        return
    assert actual.shape == expected.shape
    apart = (actual.float() - expected.float()).norm(dim=-1)
    length = expected.float().norm(dim=-1)
    assert bool((apart <= 5e-3 * length + 0.1).all()), (apart, length)


def band(value: float, *, layers: range = range(1, 3), seed: int = 0) -> list[Floor]:
    """Floors on random directions."""
    from keel.geometry import unit

    draws = torch.Generator().manual_seed(seed)
    return [Floor(n, unit(torch.randn(HIDDEN, generator=draws)), value) for n in layers]


def by_index(completions: Iterable[Completion]) -> dict[int, Completion]:
    """Completions by the prompt that they answer."""
    return {one.index: one for one in completions}
