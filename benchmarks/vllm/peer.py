"""A library's vLLM engine that waits for rounds and probes, in that library's environment.

Keel is installed in its own alone. Reads a JSON line, answers requests, writes a JSON line, as
`arm` does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from vllm import LLM, SamplingParams, TokensPrompt

from benchmarks.measuring import timed

NEW_TOKENS, HIDDEN, FLOOR = 64, 576, 2.0
_HIGH = 20.0
"""A floor that changes what is said, for probes."""
BAND = range(18, 23)
_NOWHERE = 99
_LONG = " ".join(
    f"On day {n} the keeper of lamp {7 * n % 23} saw {3 * n} ships." for n in range(12)
)
_COMMON = {"dtype": "bfloat16", "max_model_len": 1024, "gpu_memory_utilization": 0.1}


class Peer(Protocol):
    """Answers prompts, held by floors or not."""

    tokenizer: Any

    def answer(self, asked: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """One answer per request: `ids`, `floors` (layer -> vector), and how `high` they are."""

    def forget(self) -> None:
        """Empty the prefix cache."""


class Answer:
    """What came back: text, and how much of the prompt was taken from the cache."""

    def __init__(self, output: Any) -> None:
        self.text: str = output.outputs[0].text
        self.cached = output.num_cached_tokens or 0


class Plain:
    """vLLM as it comes, in the peer's environment and version."""

    def __init__(self, model: str, mode: str) -> None:
        self.mode = mode
        self.llm = LLM(model=model, enforce_eager=mode != "compiled", **_COMMON, **self.more())
        self.tokenizer = self.llm.get_tokenizer()

    def answer(self, asked: Sequence[Mapping[str, Any]]) -> list[Answer]:
        prompts = [TokensPrompt(prompt_token_ids=one["ids"]) for one in asked]
        parameters = [_sampling(extra_args=self.extra(one)) for one in asked]
        return [Answer(found) for found in self.llm.generate(prompts, parameters, use_tqdm=False)]

    def forget(self) -> None:
        self.llm.reset_prefix_cache()

    def more(self) -> dict[str, Any]:
        """What the engine is started with besides."""
        return {}

    def extra(self, one: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a request says beyond sampling."""
        if one.get("floors"):
            raise RuntimeError("plain vLLM holds nothing")
        return None


class Keel(Plain):
    """Keel: floors that were registered beforehand, by name."""

    def more(self) -> dict[str, Any]:
        from keel.engines.vllm import Deployment, layers

        if self.mode == "broken":
            layers.SteeredLayer._steer = lambda self, hidden, residual: hidden  # type: ignore[method-assign]
        held = Deployment(layers=list(BAND), steps=1, settings=4)
        return {"additional_config": {"keel": held.to_config()}}

    def extra(self, one: Mapping[str, Any]) -> dict[str, Any] | None:
        from keel.engines.vllm import PackedInterventions
        from keel.types import Floor

        if not one["floors"]:
            return {"keel": "none"}
        floors = [Floor(n, v, one.get("high", FLOOR)) for n, v in one["floors"].items()]
        setting = PackedInterventions.of("held", floors).to_bytes()
        self.llm.collective_rpc("keel_call", args=("register", "held", setting))
        return {"keel": "held"}


class Lens(Plain):
    """vllm-lens: the floor as a hook in Python, sent with each request."""

    def extra(self, one: Mapping[str, Any]) -> dict[str, Any] | None:
        from vllm_lens import Hook

        high = one.get("high", FLOOR)
        hooks = [Hook(fn=_floor_hook(v, high), layer_indices=[n]) for n, v in one["floors"].items()]
        if hooks and self.mode == "broken":
            hooks = [Hook(fn=_breaking_hook, layer_indices=list(BAND))]
        return {"apply_hooks": hooks} if hooks else None


class Interp:
    """interp-engine: its projection cap, sent with each request."""

    def __init__(self, model: str, mode: str) -> None:
        from interp_engine.vllm_backend import VLLMModel

        if mode == "broken":  # the engine's process is forked from this one
            from interp_engine.vllm_capture import requests

            requests._make_steer_modifiers = lambda *_: torch.zeros_like
        self.loop = asyncio.new_event_loop()
        self.model = VLLMModel(model, enforce_eager=True, trust_remote_code=False, **_COMMON)
        self.tokenizer = self.model.tokenizer
        self.outputs: dict[str, Answer] = {}
        run_one = self.model._run_one

        async def noted(prompt: Any, parameters: Any, request_id: str | None = None) -> Any:
            found = await run_one(prompt, parameters, request_id=request_id)
            self.outputs[found.outputs[0].text] = Answer(found)
            return found

        self.model._run_one = noted

    def answer(self, asked: Sequence[Mapping[str, Any]]) -> list[Answer]:
        async def all_of_them() -> list[str]:
            return await asyncio.gather(
                *(
                    self.model.generate_steered(
                        one["ids"], _sampling(), steering_spec=self._spec(one)
                    )
                    for one in asked
                )
            )

        return [self.outputs[text] for text in self.loop.run_until_complete(all_of_them())]

    def forget(self) -> None:
        if self.model.engine is not None:  # it starts with the first request
            self.loop.run_until_complete(self.model.engine.reset_prefix_cache())

    def _spec(self, one: Mapping[str, Any]) -> Any:
        from interp_engine import LayerSteeringSpec, ProjectionCapSpec, SteeringSpec

        high = one.get("high", FLOOR)
        layers = {
            n: LayerSteeringSpec([ProjectionCapSpec(v, min=high)]) for n, v in one["floors"].items()
        }
        return SteeringSpec(layers=layers) if layers else None


def probes(peer: Peer, ids: Sequence[int]) -> dict[str, Any]:
    """What an operator fears: cached prompts that mix, and floors that silently do nothing."""
    vectors = floors()

    def one(vectors: Mapping[int, torch.Tensor], **more: Any) -> Answer:
        return peer.answer([{"ids": list(ids), "floors": vectors, "high": _HIGH, **more}])[0]

    held, again, after = one(vectors), one(vectors), one({})
    peer.forget()
    unheld = one({})
    wide = {n: torch.ones(HIDDEN + 1) for n in BAND}
    found = {
        "the floor changes the answer": held.text != unheld.text,
        "held again takes so many tokens from the cache": again.cached,
        "unheld after held takes so many": after.cached,
        "unheld after held says what it says without": after.text == unheld.text,
    }
    # The last one may end the engine.
    for name, wrong in {
        "a layer that is not there": {_NOWHERE: vectors[BAND[0]]},
        "vectors of another width": wide,
    }.items():
        peer.forget()
        found[name] = _said(lambda wrong=wrong: one(wrong), unheld.text)
    return found


def broken_probe(peer: Peer, ids: Sequence[int]) -> dict[str, Any]:
    """What is answered where the code that holds does not work."""

    def one(vectors: Mapping[int, torch.Tensor]) -> Answer:
        peer.forget()
        return peer.answer([{"ids": list(ids), "floors": vectors, "high": _HIGH}])[0]

    unheld = one({})
    return {"steering code that does not work": _said(lambda: one(floors()), unheld.text)}


def _said(work: Any, unheld: str) -> str:
    try:
        answer = work()
    except Exception as refused:  # whatever a peer refuses with is what is asked here
        return f"refused: {type(refused).__name__}"
    return "ANSWERED, as if not asked" if answer.text == unheld else "answered, differently"


def floors() -> dict[int, torch.Tensor]:
    """The same random directions as Keel's own arm has."""
    draws = torch.Generator().manual_seed(0)
    found = {n: torch.randn(HIDDEN, generator=draws) for n in BAND}
    return {n: v / v.norm() for n, v in found.items()}


def _floor_hook(vector: torch.Tensor, floor: float) -> Any:
    def hold(ctx: Any, hidden: Any) -> Any:
        along = vector.to(hidden.device)
        short = (floor - hidden.float() @ along).clamp_min(0)
        return (hidden.float() + short[:, None] * along).to(hidden.dtype)

    return hold


def _breaking_hook(ctx: Any, hidden: Any) -> Any:
    raise RuntimeError("a fault of the floor's own code")


def _sampling(**more: Any) -> Any:
    return SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True, **more)


PEERS: Mapping[str, Any] = {
    "plain": Plain,
    "vllm-lens": Lens,
    "interp-engine": Interp,
    "Keel": Keel,
}


def main(name: str, model: str, mode: str) -> None:
    """Serve rounds until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = PEERS[name](model, mode)
    _say(answers, {"ready": True})
    held = floors()
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.get("probe"):
            ids = peer.tokenizer(_LONG)["input_ids"]
            probe = broken_probe if asked["probe"] == "broken" else probes
            _say(answers, probe(peer, ids))
            continue
        texts = [
            f"Question {n}: what is the sea like, and why do people go there in summer?"
            for n in range(asked["requests"])
        ]
        work = [
            {"ids": peer.tokenizer(text)["input_ids"], "floors": held if asked["held"] else {}}
            for text in texts
        ]
        _say(answers, asdict(timed(lambda work=work: peer.answer(work))))


def _say(answers: Any, record: Mapping[str, Any]) -> None:
    answers.write(json.dumps(record) + "\n")
    answers.flush()


def _break_interp_engine() -> None:
    """Let its floors move nothing, in this process."""
    from interp_engine.vllm_capture import requests

    requests._make_steer_modifiers = lambda *_: torch.zeros_like


# Its engine is a process of its own, which imports this module anew under another name.
if __name__ in ("__main__", "__mp_main__") and sys.argv[1::2] == ["interp-engine", "broken"]:
    _break_interp_engine()
if __name__ == "__main__":
    main(*sys.argv[1:4])
