"""One engine that waits for rounds: reads a JSON line, answers requests, writes a JSON line."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from benchmarks.arms.texts import MODEL
from benchmarks.measuring import timed

NEW_TOKENS, EXTRACTED_TOKENS = 64, 128


def main(
    deployment: dict[str, Any] | None, shape: dict[str, Any] | None, *, is_eager: bool
) -> None:
    """Serve rounds until stdin ends; with a shape, on dummy weights."""
    # What vLLM prints on stdout must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = _Engine(deployment, shape, is_eager=is_eager)
    _say(answers, {"ready": True, "runner": engine.runner})
    for line in sys.stdin:
        asked = json.loads(line)
        first: list[float] = []
        taken = timed(lambda asked=asked, first=first: engine.answer(asked, first))
        found = {
            **asdict(taken),
            "collect_s": engine.collect_s,
            "first_token_s": first[0],
            "step_s": statistics.quantiles(engine.steps_s, n=4)[0],
            "tokens": engine.tokens,
        }
        _say(answers, {**found, "texts": engine.texts} if asked.get("give_texts") else found)


class _Engine:
    def __init__(
        self,
        deployment: dict[str, Any] | None,
        shape: dict[str, Any] | None,
        *,
        is_eager: bool,
    ) -> None:
        from vllm import LLM

        from keel.engines.catalogue import locate
        from keel.engines.vllm import Deployment
        from keel.engines.vllm.handover import SumsFolder

        self.sums = SumsFolder()
        extra = {}
        if deployment is not None and deployment.pop("custom_op", False):
            from benchmarks.vllm import custom_op

            os.environ["VLLM_DISABLE_COMPILE_CACHE"] = "1"  # its key does not tell the two apart
            custom_op.use()
        if deployment is not None:
            extra = {"additional_config": {"keel": Deployment(**deployment).to_config()}}
        self.is_dummy = shape is not None
        where: dict[str, Any]
        if shape is None:
            where = {"model": locate(MODEL), "max_model_len": 1024, "gpu_memory_utilization": 0.1}
        else:
            where = {"model": shape["folder"], "max_model_len": 4096, "load_format": "dummy"}
            where |= {"gpu_memory_utilization": shape["share"], "skip_tokenizer_init": True}
            # Said, not measured: engines that start side by side would measure each other.
            where |= {"kv_cache_memory_bytes": shape["cache_bytes"]}
        self.llm = LLM(
            dtype="bfloat16",
            enforce_eager=is_eager,
            enable_prefix_caching=False,
            **where,
            **extra,
        )
        self.collect_s = 0.0
        self.deployment = deployment
        self.numbers = 0
        self.tokens = 0
        self.steps_s: list[float] = []
        self.texts: list[tuple[list[int], int]] = []
        """As asked: tokens of each prompt with its answer, and where the answer begins."""
        if deployment is not None:
            self._register(deployment)

    def _register(self, deployment: dict[str, Any]) -> None:
        import torch

        from keel.engines import Probe
        from keel.engines.vllm import PackedInterventions
        from keel.engines.vllm.engine import packed_probes
        from keel.geometry import unit
        from keel.types import Floor

        draws = torch.Generator().manual_seed(0)
        band = deployment["layers"]
        hidden = int(self.llm.llm_engine.vllm_config.model_config.get_hidden_size())
        directions = [unit(torch.randn(hidden, generator=draws)) for _ in band]
        floors = [Floor(n, v, 2.0) for n, v in zip(band, directions, strict=True)]
        self._call("register", "held", PackedInterventions.of("held", floors).to_bytes())
        if deployment.get("watched_layer") is not None:
            from keel.engines.vllm.watching import packed_direction

            self._call("watch", packed_direction(directions[0]))
        if deployment.get("probes"):
            self._call(
                "set_probes",
                packed_probes([Probe(n, v) for n, v in zip(band, directions, strict=True)]),
            )

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        return list(self.llm.collective_rpc("keel_call", args=(method, *arguments)))

    @property
    def runner(self) -> str:
        """Which of vLLM's runners it is, by its module; empty where it runs in another process."""
        core = getattr(self.llm.llm_engine.engine_core, "engine_core", None)
        driver = getattr(getattr(core, "model_executor", None), "driver_worker", None)
        worker = getattr(driver, "worker", None)
        return type(worker.model_runner).__module__ if worker is not None else ""

    def answer(self, asked: dict[str, Any], first: list[float]) -> None:
        """Answer so many requests, of which a share is held, and note when the first token came."""
        engine, began = self.llm.llm_engine, time.perf_counter()
        keys = [self._submit(number, asked) for number in range(asked["requests"])]
        self.tokens, texts = 0, {}
        self.steps_s = []
        while engine.has_unfinished_requests():
            start = time.perf_counter()
            outputs = engine.step()
            if asked.get("watch"):
                ended = [f"w{output.request_id}/0" for output in outputs if output.finished]
                if ended:  # as a server's front does, of all that end together
                    _check_watched(self._call("watched_sums", ended))
            self.steps_s.append(time.perf_counter() - start)
            for output in outputs:
                if output.outputs[0].token_ids and not first:
                    first.append(time.perf_counter() - began)
                if output.finished:
                    said = list(output.outputs[0].token_ids)
                    self.tokens += len(said)
                    asked_ids = list(output.prompt_token_ids)
                    texts[int(output.request_id)] = (asked_ids + said, len(asked_ids))
        self.texts = [texts[number] for number in sorted(texts)]
        recorded, began = [key for key in keys if key], time.perf_counter()
        if recorded:
            self._call("collect", recorded, self.sums.path)
        self.collect_s = time.perf_counter() - began

    def _submit(self, number: int, asked: dict[str, Any]) -> str:
        from vllm import SamplingParams

        self.numbers += 1
        arguments: dict[str, Any] = {}
        if self.deployment is not None:
            held = number < asked["held"] * asked["requests"]
            arguments["keel"] = "held" if held or self.deployment.get("is_global") else "none"
        key = f"k{self.numbers}" if asked["record"] else ""
        if key:
            arguments["keel_record"] = key
        if asked.get("watch"):
            arguments["keel_watch"] = [f"w{self.numbers}", 1]
        is_extraction = asked.get("extracts", False)
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=asked.get("new") or (EXTRACTED_TOKENS if is_extraction else NEW_TOKENS),
            ignore_eos=not is_extraction,
            extra_args=arguments or None,
            detokenize=not self.is_dummy,
        )
        if self.is_dummy:
            ids = [(7 * place + 13 * number) % 1000 + 5 for place in range(asked["prompt"])]
            self.llm.llm_engine.add_request(
                str(self.numbers), {"prompt_token_ids": ids}, parameters
            )
            return key
        text = f"Question {number}: what is the sea like, and why do people go there in summer?"
        if is_extraction:
            text = self._extraction_prompts(asked["requests"])[number]
        self.llm.llm_engine.add_request(str(self.numbers), text, parameters)
        return key

    @cache  # noqa: B019 - one engine lives as long as its process
    def _extraction_prompts(self, count: int) -> list[str]:
        """Roles of the library asked its questions, in the model's template."""
        from benchmarks.arms.texts import prompts

        tokenizer = self.llm.get_tokenizer()
        return [
            tokenizer.apply_chat_template(
                [{"role": m.speaker, "content": m.content} for m in one.conversation.messages],
                tokenize=False,
                add_generation_prompt=True,
            )
            for one in prompts(count)
        ]


def _say(answers: Any, record: dict[str, Any]) -> None:
    answers.write(json.dumps(record) + "\n")
    answers.flush()


def _check_watched(workers: Sequence[Sequence[Sequence[float] | None]]) -> None:
    """Refuse to time answers that no worker has read: they would cost too little."""
    for rows in zip(*workers, strict=True):
        if not any(row is not None and row[0] > 0 for row in rows):
            raise SystemExit("an answer of this arm was not watched; its time says nothing")


if __name__ == "__main__":
    shape = json.loads(sys.argv[3]) if len(sys.argv) > 3 else None
    main(json.loads(sys.argv[1]), shape, is_eager=sys.argv[2] == "eager")
