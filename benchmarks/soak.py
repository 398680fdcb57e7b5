"""Soaks a watched server: conversations by the thousand, aborted answers, kill -9 in the middle.

Every verdict is compared with one of the same tokens by transformers, without any server; memory,
and all that the server wrote, are looked at. `python -m benchmarks.soak --conversations 2000`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch

from keel.alarm import Alarm, Monitor
from keel.engines.catalogue import locate
from keel.geometry import unit
from keel.store import load_alarm, save_floors
from keel.store.alarms import write_alarm
from keel.testing import save_tiny_model
from keel.types import Floor, Floors, ModelIdentity

MARKER = "xylophone7261"
_HIDDEN, _LAYERS = 128, 4
_LEVEL, _GAP = -9.6, 7.0
"""Raw projection and length that put the tiny model's answers about 1, with a spread of .5."""
_MOST_TURNS, _ABORTED, _NAMED, _TWO = 12, 0.08, 0.3, 0.1
"""Turns of a conversation at most; shares: of turns that are aborted first, of conversations whose
client sends an id, of turns with two answers."""
_LARGEST_GAP, _LARGEST_EVIDENCE = 1e-3, 1e-2
"""Largest difference of levels, in gaps (and the four digits that are sent), and relative of
evidence."""


@dataclass(frozen=True)
class Turn:
    """One answer of a server, with what is needed to judge it again."""

    conversation: int
    number: int
    start: int
    """How many times the server had been started when it answered."""
    prompt_ids: list[int]
    answer_ids: list[int]
    is_cut: bool
    said: Mapping[str, Any]
    goes_on: bool
    """Whether the conversation goes on with this answer."""


@dataclass
class Soak:
    """What was seen."""

    turns: list[Turn] = field(default_factory=list)
    aborted: int = 0
    retried: int = 0
    """Requests that the kill interrupted."""
    memory_mib: list[tuple[int, float]] = field(default_factory=list)
    """Turns answered so far, and memory of all of the server's processes."""
    metrics: str = ""


class Server:
    """`keel serve` with two HTTP processes, which can be killed and started again."""

    def __init__(self, folder: Path, source: Path, alarm: Path, model: str, blocks: int) -> None:
        self.folder, self.port, self.starts = folder, _free_port(), 0
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [sys.executable, "-m", "keel", "serve", str(source), "--model", model]
        self.command += ["--alarm", str(alarm), "--alarm-log", str(folder / "alarm.jsonl"), "--"]
        self.command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32"]
        self.command += ["--enforce-eager", "--max-model-len", "2048", "--api-server-count", "2"]
        self.command += ["--served-model-name", "soaked", "--gpu-memory-utilization", "0.2"]
        self.command += ["--num-gpu-blocks-override", str(blocks), "--max-num-seqs", "16"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until its health is green."""
        self.starts += 1
        environment = {**os.environ, "TMPDIR": str(self.folder), "VLLM_LOGGING_LEVEL": "INFO"}
        environment |= {"VLLM_CPU_KVCACHE_SPACE": "1"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        ends = time.monotonic() + 600
        while time.monotonic() < ends and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise SystemExit(f"the server did not come up; see {self.folder / 'server.log'}")

    def kill(self, with_signal: int = signal.SIGKILL) -> None:
        """End it and all of its processes."""
        assert self.process is not None
        if with_signal == signal.SIGKILL:
            os.killpg(self.process.pid, with_signal)
        else:
            self.process.send_signal(with_signal)
        self.process.wait(120)

    def memory_mib(self) -> float:
        """Resident memory of all its processes, less what they share with others."""
        assert self.process is not None
        group, total = os.getpgid(self.process.pid), 0
        for path in Path("/proc").iterdir():
            try:
                if path.name.isdigit() and os.getpgid(int(path.name)) == group:
                    text = (path / "smaps_rollup").read_text()
                    total += sum(int(kb) for kb in re.findall(r"Private_\w+:\s+(\d+)", text))
            except (OSError, ProcessLookupError):
                continue  # it has just ended
        return total / 1024


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Client:
    """Has conversations with the server, several at a time."""

    def __init__(self, server: Server, soak: Soak, http: httpx.AsyncClient, settings: Any) -> None:
        self.server, self.soak, self.http, self.settings = server, soak, http, settings
        self.is_up = asyncio.Event()
        self.is_up.set()

    async def converse(self, number: int) -> None:
        """One conversation of 1 to 12 turns."""
        draws = random.Random(number)
        headers = {"Authorization": f"Bearer {MARKER}{number % 7}"}
        is_named = draws.random() < _NAMED
        if is_named:
            headers["X-Keel-Conversation"] = f"{MARKER}{number}"
        messages: list[dict[str, str]] = []
        for turn in range(draws.randint(1, _MOST_TURNS)):
            messages.append({"role": "user", "content": f"{MARKER} {draws.random():.3f}"})
            body = {
                "model": "soaked",
                "messages": messages,
                "max_tokens": draws.randint(6, 24),
                "seed": draws.randrange(2**31),
                "return_token_ids": True,
                "n": 2 if not is_named and draws.random() < _TWO else 1,
            }
            name = draws.choice(self.settings)
            if name is not None:
                body["vllm_xargs"] = {"keel": name}
            if not is_named and draws.random() < _ABORTED:
                await self._abort(body, headers)
            start, reply = await self._answered(body, headers)
            for choice in reply["choices"]:
                ended = Turn(
                    number,
                    turn,
                    start,
                    reply["prompt_token_ids"],
                    choice["token_ids"],
                    choice["finish_reason"] == "length",
                    choice["keel"],
                    choice["index"] == 0,
                )
                self.soak.turns.append(ended)
            content = reply["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": content})

    async def _answered(self, body: Any, headers: Any) -> tuple[int, Any]:
        """Which start of the server answered, and its answer; again, where it was killed."""
        while True:
            await self.is_up.wait()
            start = self.server.starts
            try:
                reply = await self.http.post("/v1/chat/completions", json=body, headers=headers)
                if reply.status_code == 200:
                    return start, reply.json()
                if reply.status_code < 500:
                    raise SystemExit(f"status {reply.status_code}: {reply.text[:300]}")
            except httpx.TransportError:
                pass
            self.soak.retried += 1
            await asyncio.sleep(0.5)

    async def _abort(self, body: Any, headers: Any) -> None:
        """Go away in the midst of a stream."""
        asked = {**body, "stream": True, "max_tokens": 200, "n": 1}
        asked.pop("return_token_ids")
        await self.is_up.wait()
        try:
            async with self.http.stream(
                "POST", "/v1/chat/completions", json=asked, headers=headers
            ) as reply:
                async for _ in reply.aiter_bytes():
                    break
            self.soak.aborted += 1
        except httpx.TransportError:
            pass


async def _run(server: Server, soak: Soak, settings: Any, asked: argparse.Namespace) -> int:
    """Have all conversations, or as many as there is time for; how many that were."""
    limits = httpx.Limits(max_connections=2 * asked.at_once)
    http = httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits)
    client, began, next_number = Client(server, soak, http, settings), time.monotonic(), 0
    working: set[asyncio.Task[None]] = set()
    has_killed = asked.no_kill
    while next_number < asked.conversations or working:
        is_late = time.monotonic() - began > 60 * asked.minutes
        while next_number < asked.conversations and len(working) < asked.at_once and not is_late:
            working.add(asyncio.create_task(client.converse(next_number)))
            next_number += 1
            if next_number % max(1, asked.conversations // 40) == 0:
                soak.memory_mib.append((len(soak.turns), server.memory_mib()))
                line = f"{next_number} conversations, {len(soak.turns)} answers, "
                print(f"{line}{soak.memory_mib[-1][1]:.0f} MiB", file=sys.stderr, flush=True)
        if not working:
            break
        done, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        half = time.monotonic() - began > 30 * asked.minutes
        if not has_killed and (half or next_number >= asked.conversations / 2):
            has_killed = True
            client.is_up.clear()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            client.is_up.set()
            soak.memory_mib.clear()
    soak.memory_mib.append((len(soak.turns), server.memory_mib()))
    soak.metrics = (await http.get("/metrics")).text
    await http.aclose()
    return next_number


def offline_means(
    model: Any, alarm: Alarm, turns: Sequence[Turn], end_ids: frozenset[int]
) -> Iterator[tuple[float, int]]:
    """Mean projection and tokens of each answer, by transformers' own hidden states."""
    for turn in turns:
        answer = turn.answer_ids[:-1] if turn.is_cut else turn.answer_ids
        ids = torch.tensor([[*turn.prompt_ids, *answer]])
        with torch.inference_mode():
            stream_TD = model(ids, output_hidden_states=True).hidden_states[alarm.layer + 1][0]
        heights_T = stream_TD[len(turn.prompt_ids) :].float() @ alarm.direction
        content_T = torch.tensor([token not in end_ids for token in answer], dtype=torch.bool)
        kept_T = heights_T[content_T]
        yield (float(kept_T.mean()) if len(kept_T) else float("nan")), len(kept_T)


def compared(alarm: Alarm, soak: Soak, means: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """How far the server's verdicts are from those of the same tokens without any server."""
    monitor, seen = Monitor(alarm), Counter[str]()
    largest, evidence, wrong = 0.0, 0.0, list[str]()
    rows = sorted(
        zip(soak.turns, means, strict=True), key=lambda row: (row[0].conversation, row[0].number)
    )
    for turn, (mean, tokens) in rows:
        # What a killed server knew of a conversation is gone: it begins anew.
        name = f"{turn.conversation} {turn.start}"
        seen[turn.said["state"]] += 1
        if tokens == 0:
            seen["without content"] += 1
            if turn.goes_on:
                monitor.turn(name, mean=0.0, tokens=0)
            continue
        gap = abs(turn.said["gaps"] - alarm.in_gaps(mean))
        largest = max(largest, gap)
        if gap > _LARGEST_GAP:
            wrong.append(f"{turn.conversation}/{turn.number}: gaps differ by {gap:.2g}")
        if not turn.goes_on:
            continue
        verdict = monitor.turn(name, mean=mean, tokens=tokens)
        off = abs(turn.said["evidence"] - verdict.evidence) / max(1.0, verdict.evidence)
        evidence = max(evidence, off)
        if off > _LARGEST_EVIDENCE:
            wrong.append(f"{turn.conversation}/{turn.number}: evidence differs by {off:.2g}")
        if turn.said["state"] != verdict.state:
            wrong.append(f"{turn.conversation}/{turn.number}: {turn.said['state']} for {verdict}")
    return {
        "answers compared": len(rows) - seen["without content"],
        "largest difference, gaps": largest,
        "largest relative difference of evidence": evidence,
        "states": dict(seen),
        "differ": wrong[:20],
        "differing": len(wrong),
    }


def traces(folder: Path, metrics: str) -> list[str]:
    """Where a word of the conversations stands in what the server wrote or says."""
    files = [path for path in folder.rglob("*") if path.is_file() and "model" not in path.parts]
    marked = [str(path) for path in files if MARKER.encode() in path.read_bytes()]
    return marked + (["/metrics"] if MARKER in metrics else [])


def _tiny(folder: Path) -> tuple[Path, Path, str, Alarm]:
    """Floors, alarm and weights of a tiny random model."""
    shape = {"hidden": _HIDDEN, "layers": _LAYERS}
    model = save_tiny_model(folder / "model" / "tiny", "llama", **shape)
    draws = torch.Generator().manual_seed(0)

    def band(value: float) -> tuple[Floor, ...]:
        drawn = [unit(torch.randn(_HIDDEN, generator=draws)) for _ in (1, 2)]
        return tuple(Floor(n, v, value) for n, v in zip((1, 2), drawn, strict=True))

    bands = [Floors(band(2.0), "low"), Floors(band(4.0), "high")]
    save_floors(bands, folder / "floors.safetensors", default="high")
    identity = ModelIdentity(model_id="tiny", layers=_LAYERS, hidden_size=_HIDDEN)
    direction = unit(torch.randn(_HIDDEN, generator=draws))
    alarm = Alarm(0, direction, _LEVEL, _GAP, (1.0,), 0.4, 0.3, 1.0, identity, rate=0.05)
    write_alarm(alarm, folder / "alarm.json")
    return folder / "floors.safetensors", folder / "alarm.json", str(model), alarm


def main(arguments: Sequence[str] | None = None) -> int:
    """What was seen as JSON on stdout, progress on stderr. Status 1 where a verdict differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--conversations", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=20, help="begin none after so many")
    parser.add_argument("--no-kill", action="store_true", help="let the server live")
    parser.add_argument("--blocks", type=int, default=40, help="of cache: few make it preempt")
    parser.add_argument("--floors", type=Path, help="a run or floors (default: a tiny model's)")
    parser.add_argument("--alarm", type=Path, help="their alarm")
    parser.add_argument("--model", help="alias or folder of their model")
    parser.add_argument("--setting", action="append", help="that requests name; may be repeated")
    asked = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="keel-soak-"))
    if asked.floors is None:
        floors, path, model, alarm = _tiny(folder)
    else:
        floors, path, model = asked.floors, asked.alarm, locate(asked.model)
        alarm = load_alarm(path)
    settings = [None, *(asked.setting or ["low", "high", "none"])]
    server, soak, began = Server(folder, floors, path, model, asked.blocks), Soak(), time.time()
    server.start()
    try:
        begun = asyncio.run(_run(server, soak, settings, asked))
        marked = traces(folder, soak.metrics)
    finally:
        server.kill(signal.SIGTERM)
    took_s = time.time() - began
    (folder / "turns.json").write_text(json.dumps([asdict(turn) for turn in soak.turns]))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    end_ids = frozenset({AutoTokenizer.from_pretrained(model).eos_token_id})
    means = list(offline_means(loaded, alarm, soak.turns, end_ids))
    outcome = {
        "conversations": begun,
        "answers": len(soak.turns),
        "aborted": soak.aborted,
        "interrupted by the kill": soak.retried,
        "starts": server.starts,
        "minutes": round(took_s / 60, 1),
        **compared(alarm, soak, means),
        "memory, MiB, by answers since the last start": soak.memory_mib,
        "the word stands in": marked,
        "metrics": _counted(soak.metrics),
        "folder": str(folder),
    }
    print(json.dumps(outcome, indent=1))
    return 1 if outcome["differing"] or marked else 0


def _counted(metrics: str) -> dict[str, float]:
    """Preemptions, prefix hits and Keel's counters, of what `/metrics` says."""
    wanted = r"^((?:vllm:num_preemptions_total|vllm:prefix_cache_hits_total|keel_drift_).*) (\S+)$"
    lines = re.findall(wanted, metrics, re.M)
    return {name: float(value) for name, value in lines if "bucket" not in name}


if __name__ == "__main__":
    sys.exit(main())
