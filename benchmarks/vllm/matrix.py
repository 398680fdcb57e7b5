"""Whether Keel holds every architecture that vLLM runs on this CPU, as `make matrix-vllm` shows it.

Each type of transformers is built tiny and random, and its weights run under Keel in both engines,
capped and uncapped. Each engine has a process of its own, with a limit of time. Progress goes to
stderr; the table to docs/results/vllm-architectures.md.

    python -m benchmarks.vllm.matrix                      all types, and the page
    python -m benchmarks.vllm.matrix --only llama gemma3  some types, on stdout
    python -m benchmarks.vllm.matrix --kept FILE          leaves out what an earlier run has done
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from benchmarks.children import Ended, ForkServer
from benchmarks.vllm.examination import (
    Failure,
    Held,
    Tolerance,
    attempted,
    build,
    by_transformers,
    by_vllm,
    by_vllm_alone,
    compared,
)

PAGE = Path(__file__).parents[2] / "docs" / "results" / "vllm-architectures.md"
_LIMIT_S = 400
_IMPORTED = (
    "benchmarks.vllm.examination",
    "keel.engines.transformers",
    "keel.engines.vllm",
    "keel.testing",
    "transformers.generation",
    "vllm.entrypoints.llm",
    "vllm.model_executor.model_loader",
    "vllm.model_executor.models.transformers",
    "vllm.model_executor.layers.fused_moe.layer",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.worker.cpu_worker",
)

Outcome = Literal[
    "right", "refused", "wrong", "crashes", "vLLM differs", "vLLM cannot", "transformers cannot"
]
MEANINGS: dict[Outcome, str] = {
    "right": "both engines give the same tokens and the same means of every layer, uncapped and "
    "under floors at all layers but the first",
    "refused": "vLLM runs it, and Keel says why it does not hold it",
    "wrong": "the engines differ, though vLLM without Keel agrees with transformers",
    "crashes": "an error that Keel did not foresee, where vLLM without Keel runs",
    "vLLM differs": "vLLM without Keel predicts otherwise than transformers, so that there is "
    "nothing to compare with; under Keel it predicts the same as without",
    "vLLM cannot": "vLLM without Keel does not run it on this CPU",
    "transformers cannot": "the model cannot be built from its default config, or transformers "
    "engine refuses it",
}


@dataclass(frozen=True)
class Verdict:
    """How the comparison of a type's engines ended."""

    outcome: Outcome
    text: str
    """What is not as it should be; empty where all is."""
    runs_as: str = ""
    """Class that vLLM runs it as; empty where it did not start."""
    dtype: str = "float32"
    gap: float | None = None
    """Largest distance between the engines' means of a layer, in lengths of the mean."""


@dataclass(frozen=True)
class TypeOutcome(Verdict):
    """The same, of a type."""

    model_type: str = ""
    architecture: str = ""
    """Class of the checkpoint; empty where there is none."""
    seconds: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when nothing is wrong or crashes, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vllm.matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="these types, and no page")
    parser.add_argument(
        "--kept",
        type=Path,
        metavar="FILE",
        help="each outcome as it comes; those in it are not run again",
    )
    given = parser.parse_args(arguments)
    os.environ.update(
        OMP_NUM_THREADS="1",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
    )
    from keel.testing import model_types

    kept = _kept(given.kept)
    types = given.only or sorted(name for name, kind in model_types().items() if kind == "text")
    server = ForkServer(*_IMPORTED)
    for number, model_type in enumerate(types, 1):
        if model_type not in kept:
            kept[model_type] = examined(server, model_type)
            if given.kept is not None:
                _keep(given.kept, kept)
        print(f"{number}/{len(types)} {_row(kept[model_type])}", file=sys.stderr, flush=True)
    outcomes = [kept[model_type] for model_type in types]
    if given.only is None:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    else:
        print("\n".join(map(_row, outcomes)))
    return int(any(each.outcome in ("wrong", "crashes") for each in outcomes))


def _kept(file: Path | None) -> dict[str, TypeOutcome]:
    rows = json.loads(file.read_text()) if file is not None and file.exists() else []
    return {row["model_type"]: TypeOutcome(**row) for row in rows}


def _keep(file: Path, outcomes: Mapping[str, TypeOutcome]) -> None:
    fresh = file.with_suffix(".fresh")
    fresh.write_text(json.dumps([asdict(each) for each in outcomes.values()], indent=1) + "\n")
    fresh.replace(file)


def examined(server: ForkServer, model_type: str) -> TypeOutcome:
    """The outcome of one type, in float32, or in bfloat16 where vLLM runs it in that alone."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="keel-matrix-") as folder:
        built = _run(server, build, model_type, folder)
        is_built = not isinstance(built, Failure)
        expected = _run(server, by_transformers, folder, "float32") if is_built else built
        if isinstance(expected, Failure):
            verdict = Verdict("transformers cannot", expected.text)
        else:
            verdict = _verdict(server, folder, expected, "float32", Tolerance())
            if verdict.outcome == "vLLM cannot" and re.search("bf(loat)?16", verdict.text, re.I):
                noise = _noise(server, folder, expected)
                verdict = _verdict(server, folder, expected, "bfloat16", noise)
    return TypeOutcome(
        **asdict(verdict),
        model_type=model_type,
        architecture=built if is_built else "",
        seconds=round(time.monotonic() - began, 1),
    )


def _verdict(
    server: ForkServer, folder: str, expected: Held, dtype: str, tolerance: Tolerance
) -> Verdict:
    """What is so of a model that transformers runs."""
    held = _run(server, by_vllm, folder, dtype, expected.floors)
    text = ""
    if isinstance(held, Held):
        plain = compared(held.uncapped, expected.uncapped, tolerance)
        capped = compared(held.capped, expected.capped, tolerance)
        under = capped.text and f"under floors: {capped.text}"
        text, gap = "; ".join(filter(None, [plain.text, under])), max(plain.gap, capped.gap)
        if not text:
            return Verdict("right", "", held.runs_as, dtype, gap)
    alone = _run(server, by_vllm_alone, folder, dtype)
    if isinstance(alone, Failure):
        return Verdict("vLLM cannot", alone.text, dtype=dtype)
    if isinstance(held, Failure):
        return Verdict("refused" if held.is_refusal else "crashes", held.text, dtype=dtype)
    own = compared(held.uncapped, alone, tolerance)
    theirs = compared(alone, expected.uncapped, tolerance)
    if theirs.text and not own.text:
        return Verdict("vLLM differs", theirs.text, held.runs_as, dtype)
    text = "; ".join(filter(None, [text, own.text and f"from vLLM alone: {own.text}"]))
    return Verdict("wrong", text, held.runs_as, dtype, gap)


def _noise(server: ForkServer, folder: str, expected: Held) -> Tolerance:
    """Three times as far as transformers in bfloat16 is from itself in float32."""
    rounded = _run(server, by_transformers, folder, "bfloat16", expected.floors)
    if isinstance(rounded, Failure):
        return Tolerance()
    pairs = ((rounded.uncapped, expected.uncapped), (rounded.capped, expected.capped))
    noise = [compared(ours, theirs, Tolerance()) for ours, theirs in pairs]
    return Tolerance(
        3 * max(each.gap for each in noise),
        3 * max(each.log_likelihood for each in noise),
        has_same_tokens=False,
    )


def _run(server: ForkServer, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a process of its own, or `Failure`."""
    ended = server.run(attempted, function, *arguments, limit_s=_LIMIT_S)
    return Failure(ended.reason, is_refusal=False) if isinstance(ended, Ended) else ended


def page(outcomes: Sequence[TypeOutcome]) -> str:
    """The page with totals and a row per type."""
    from importlib.metadata import version

    from keel.testing import model_types

    run = {each.model_type for each in outcomes}
    left = [name for name, kind in model_types().items() if kind == "text" and name not in run]
    totals = [
        f"| {outcome} | {sum(each.outcome == outcome for each in outcomes)} | {meaning} |"
        for outcome, meaning in MEANINGS.items()
    ]
    parts = [
        "# Architectures under vLLM",
        "Whether Keel holds and records every architecture that vLLM runs on a CPU: each type of "
        "text model that transformers has, built tiny and random, its weights under Keel in both "
        "engines, and in vLLM without Keel where the two differ. Made by `make matrix-vllm`; do "
        "not edit.",
        f"vLLM {version('vllm-cpu')}, transformers {version('transformers')}, "
        f"{date.today().isoformat()}.",
        "| | types | |\n|---|---|---|\n" + "\n".join([*totals, f"| all | {len(outcomes)} | |"]),
        "Floors stand at every layer but the first, on random directions, above three quarters of "
        "the tokens. The distance is the largest between the engines' means of a layer, over "
        "prompts and answers, capped and uncapped, in lengths of the mean; 0.01 is taken for equal "
        "in float32, and in bfloat16 three times what rounding makes in transformers.",
        "Where vLLM misses a setting or a weight, published checkpoints may have it: these come "
        "from the defaults of transformers."
        + (f" Not run: {', '.join(sorted(left))}." if left else ""),
        "| type | runs as | dtype | outcome | distance | why |\n|---|---|---|---|---|---|\n"
        + "\n".join(map(_row, outcomes)),
    ]
    return "\n\n".join(parts) + "\n"


def _row(each: TypeOutcome) -> str:
    text = each.text.replace("|", "\\|").replace("\n", " ")
    gap = "" if each.gap is None else f"{each.gap:.0e}"
    runs_as = each.runs_as or each.architecture
    return f"| {each.model_type} | {runs_as} | {each.dtype} | {each.outcome} | {gap} | {text} |"


if __name__ == "__main__":
    sys.exit(main())
