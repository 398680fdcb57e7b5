"""The price of the paper's full run, worked out from assumptions that stand here by name.

Run as `python -m docs.scale` it prints the tables of docs/scale.md; change an assumption to yours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

ROLES, ROLE_PROMPTS, TRAITS, TRAIT_PROMPTS, QUESTIONS, DEFAULT_PROMPTS = 275, 5, 240, 10, 240, 5
ROLE_ANSWERS = (ROLES * ROLE_PROMPTS + DEFAULT_PROMPTS) * QUESTIONS
TRAIT_ANSWERS = TRAITS * TRAIT_PROMPTS * QUESTIONS

PROMPT_TOKENS = 64
"""Measured: mean of Keel's library in SmolLM2's template and tokenizer."""
ANSWER_TOKENS = 472
"""Published: mean answer of Llama-3.1-8B at 512 tokens at the most, over 331,200 answers."""
PEAK_FLOPS = 989e12
"""Of one H100 SXM: bfloat16, dense, from its data sheet."""
GENERATING = 0.20
"""Assumed share of the peak that generation reaches, see the anchors."""
READING = 0.40
"""Assumed share of the peak that reading given text reaches: all its tokens at once."""
RECORDING = 1.04
"""Time of generating and recording over generating alone: the most that we allow ourselves. What
was measured under vLLM on a CPU stands in docs/vllm.md."""
GPU_USD_PER_HOUR = 2.50
"""Assumed."""
GPUS = 8
"""Of the machine for which wall-clock time is given."""

RUBRIC_TOKENS, TRAIT_RUBRIC_TOKENS, QUESTION_TOKENS = 342, 175, 13
"""Measured: means of the reference's files, by SmolLM2's tokenizer."""
VERDICT_TOKENS = 3
"""A number."""
JUDGE_USD_PER_MILLION_IN, JUDGE_USD_PER_MILLION_OUT = 0.40, 1.60
"""List price of gpt-4.1-mini, the paper's judge, without batch discount."""

PEOPLE_TOPICS, DOMAINS, TURNS, STUDY_ARMS, AUDITORS = 100, 4, 15, 2, 3
"""A drift study: conversations of each domain and as many neutral ones, uncapped and capped, the
users written by each of three auditors in turn, as the paper's were."""
MESSAGE_TOKENS, AUDITOR_RULES_TOKENS = 40, 250
"""Assumed of a user's message; measured of Keel's instructions to an auditor."""
COMPUTED = 1.1
"""Prompt tokens computed over unique ones, with what engines keep of a conversation: the most that
we allow ourselves."""
HARM_FIRST, HARM_REQUESTS = ROLES * 10, 440
"""First answers, each followed by so many requests: the paper's cross."""

ROW_BYTES, ROW_BYTES_PER_TOKEN = 300, 11
"""Measured on a run of `smollm2`: a rollout's line of JSON, with text and token ids."""


@dataclass(frozen=True)
class Model:
    """A shape and what carries it."""

    name: str
    parameters: float
    layers: int
    hidden: int
    gpus: int
    """H100s of 80 GB under one engine: bfloat16 weights in half of their memory or less, the rest
    for keys and values."""

    @property
    def tokens_per_gpu_s(self) -> float:
        """Answer tokens a second and GPU: two operations a parameter and token."""
        return GENERATING * PEAK_FLOPS / (2 * self.parameters)

    @property
    def mean_bytes(self) -> int:
        """One answer's means and norms on disk: float16, and a float32 norm a layer."""
        return self.layers * (2 * self.hidden + 4)

    def generating_hours(self, answers: int) -> float:
        """GPU hours for answers, recorded in the same pass."""
        return RECORDING * answers * ANSWER_TOKENS / self.tokens_per_gpu_s / 3600

    def reading_hours(self, tokens: int) -> float:
        """GPU hours to read so many given tokens."""
        return tokens * 2 * self.parameters / (READING * PEAK_FLOPS) / 3600


MODELS = (
    Model("8B", 8.0e9, 32, 4096, 1),
    Model("32B", 32.8e9, 64, 5120, 2),
    Model("70B", 70.6e9, 80, 8192, 4),
)
ANCHORS = (
    ("Llama-3.1-8B, RTX 4090, vLLM; the paper's own prompts, replicated", 8.0e9, 165e12, 3841, 1),
    ("Gemma 3 27B, 4 × H100, vLLM", 27.0e9, PEAK_FLOPS, 22000, 4),
    ("Llama-3.1-8B, 1 × H100, vLLM", 8.0e9, PEAK_FLOPS, 12500, 1),
    ("Qwen3-32B, 1 × H100, vLLM untuned (input counted, too)", 32.8e9, PEAK_FLOPS, 2353, 1),
)
"""Published: what, parameters, peak of one GPU, tokens a second, GPUs."""


def tables() -> str:
    """All tables of the page, each under what it says."""
    parts = (
        ("How much is answered", _answers()),
        ("How fast others were", _anchors()),
        ("What it takes", _machines()),
        ("What judging takes", _judges()),
        ("What a drift study takes", _study()),
    )
    return "\n\n".join(f"### {heading}\n\n{table}" for heading, table in parts)


def _answers() -> str:
    rows = [
        (f"roles: {ROLES} × {ROLE_PROMPTS} prompts × {QUESTIONS} questions", ROLES * 1200),
        (f"default: {DEFAULT_PROMPTS} prompts × {QUESTIONS}", DEFAULT_PROMPTS * QUESTIONS),
        (f"traits: {TRAITS} × {TRAIT_PROMPTS} prompts × {QUESTIONS}", TRAIT_ANSWERS),
        ("all", ROLE_ANSWERS + TRAIT_ANSWERS),
    ]
    return _table(
        ("asked", "answers", "prompt tokens", "answer tokens"),
        [
            (what, f"{n:,}", _million(n * PROMPT_TOKENS), _million(n * ANSWER_TOKENS))
            for what, n in rows
        ],
    )


def _anchors() -> str:
    return _table(
        ("published", "tokens/s and GPU", "of the peak"),
        [
            (what, f"{speed / gpus:,.0f}", f"{speed / gpus * 2 * parameters / peak:.0%}")
            for what, parameters, peak, speed, gpus in ANCHORS
        ],
    )


def _machines() -> str:
    def usual(model: Model) -> float:
        both = (PROMPT_TOKENS + ANSWER_TOKENS) * ROLE_ANSWERS
        return model.generating_hours(ROLE_ANSWERS) / RECORDING + model.reading_hours(both)

    def cost(hours: float) -> str:
        return f"${hours * GPU_USD_PER_HOUR:,.0f}"

    def roles(model: Model) -> float:
        return model.generating_hours(ROLE_ANSWERS)

    def traits(model: Model) -> float:
        return model.generating_hours(TRAIT_ANSWERS)

    return _by_model(
        ("layers × hidden size", lambda m: f"{m.layers} × {m.hidden:,}"),
        ("H100s under one engine", lambda m: str(m.gpus)),
        ("answer tokens a second and GPU", lambda m: f"{m.tokens_per_gpu_s:,.0f}"),
        ("**roles and default**, GPU hours", lambda m: f"{roles(m):,.1f}"),
        (f"hours on {GPUS} GPUs", lambda m: f"{roles(m) / GPUS:,.1f}"),
        ("GPU cost", lambda m: cost(roles(m))),
        ("the usual way (answer, then read again), GPU hours", lambda m: f"{usual(m):,.1f}"),
        ("disk: means", lambda m: _gigabytes(m.mean_bytes * ROLE_ANSWERS)),
        ("disk: texts", lambda m: _gigabytes(_text_bytes() * ROLE_ANSWERS)),
        ("**traits**, GPU hours", lambda m: f"{traits(m):,.1f}"),
        (f"hours on {GPUS} GPUs", lambda m: f"{traits(m) / GPUS:,.1f}"),
        ("GPU cost", lambda m: cost(traits(m))),
        ("disk: means", lambda m: _gigabytes(m.mean_bytes * TRAIT_ANSWERS)),
        (f"to the writing process, from {GPUS} GPUs, MB/s", lambda m: f"{_stream(m) / 1e6:,.0f}"),
    )


def _judges() -> str:
    def likelihood(model: Model, answers: int) -> str:
        with_role = PROMPT_TOKENS + ANSWER_TOKENS
        without = QUESTION_TOKENS + ANSWER_TOKENS
        return f"{model.reading_hours((with_role + without) * answers):,.1f}"

    def asked(answers: int, rubric: int) -> tuple[str, str, str]:
        read = answers * (rubric + QUESTION_TOKENS + ANSWER_TOKENS)
        said = answers * VERDICT_TOKENS
        usd = read * JUDGE_USD_PER_MILLION_IN / 1e6 + said * JUDGE_USD_PER_MILLION_OUT / 1e6
        return _million(read), _million(said), f"${usd:,.0f}"

    rows = []
    kinds = (("roles", ROLES * 1200, RUBRIC_TOKENS), ("traits", TRAIT_ANSWERS, TRAIT_RUBRIC_TOKENS))
    for what, answers, rubric in kinds:
        own = (likelihood(m, answers) if what == "roles" else "none" for m in MODELS)
        rows.append((what, *asked(answers, rubric), *own))
    heads = (f"by likelihood, {m.name}, GPU hours" for m in MODELS)
    return _table(("judged", "tokens read", "tokens written", "gpt-4.1-mini", *heads), rows)


def _study() -> str:
    talks = (DOMAINS + 1) * PEOPLE_TOPICS * STUDY_ARMS * AUDITORS
    turn_tokens = MESSAGE_TOKENS + ANSWER_TOKENS
    answers, fresh = talks * TURNS, talks * (TURNS - 1)
    unique = talks * TURNS * turn_tokens
    whole = talks * turn_tokens * TURNS * (TURNS - 1) // 2 + talks * TURNS * MESSAGE_TOKENS
    alone = fresh * turn_tokens
    written = DOMAINS * PEOPLE_TOPICS * STUDY_ARMS * TURNS
    sent = written * (AUDITOR_RULES_TOKENS + (TURNS - 1) * turn_tokens // 2)
    usd = sent * JUDGE_USD_PER_MILLION_IN / 1e6
    usd += written * MESSAGE_TOKENS * JUDGE_USD_PER_MILLION_OUT / 1e6
    crossed = HARM_FIRST * HARM_REQUESTS

    def answering(model: Model) -> float:
        return model.generating_hours(answers + fresh)

    def prompts(model: Model) -> float:
        return model.reading_hours(int(COMPUTED * unique) + alone)

    def harm(model: Model) -> float:
        read = int(COMPUTED * crossed * MESSAGE_TOKENS)
        return model.generating_hours(crossed + HARM_FIRST) + model.reading_hours(read)

    def cost(hours: float) -> str:
        return f"${hours * GPU_USD_PER_HOUR:,.0f}"

    lines = (
        f"{talks:,} conversations of {TURNS} turns: {answers + fresh:,} answers with those to "
        f"single messages, {_million(unique)} unique tokens, {_million(whole)} of prompts if every "
        f"turn read its history anew. An auditor at the price of gpt-4.1-mini: {written:,} "
        f"messages, {_million(sent)} tokens sent, ${usd:,.0f} each. The cross of roles and "
        f"requests: {crossed:,} second answers."
    )
    table = _by_model(
        ("**conversations**: answers, GPU hours", lambda m: f"{answering(m):,.1f}"),
        ("prompts with what is kept, and single turns, GPU hours", lambda m: f"{prompts(m):,.1f}"),
        ("prompts computed whole instead, GPU hours", lambda m: f"{m.reading_hours(whole):,.1f}"),
        ("GPU cost", lambda m: cost(answering(m) + prompts(m))),
        ("disk: means at one layer", lambda m: _gigabytes(answers * m.hidden * 4)),
        ("**roles × first answers × requests**, GPU hours", lambda m: f"{harm(m):,.1f}"),
        ("GPU cost", lambda m: cost(harm(m))),
    )
    return f"{lines}\n\n{table}"


def _text_bytes() -> int:
    return ROW_BYTES + ROW_BYTES_PER_TOKEN * ANSWER_TOKENS


def _stream(model: Model) -> float:
    """Bytes a second that come over the network: means in float32, as they were summed."""
    answers_per_s = GPUS * model.tokens_per_gpu_s / RECORDING / ANSWER_TOKENS
    return answers_per_s * model.layers * (model.hidden + 1) * 4


def _by_model(*rows: tuple[str, Callable[[Model], str]]) -> str:
    return _table(
        ("", *(model.name for model in MODELS)),
        [(what, *(of(model) for model in MODELS)) for what, of in rows],
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---", *("---:" for _ in head[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _million(count: int) -> str:
    return f"{count / 1e6:,.1f} M"


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes < 10e9 else f"{size_bytes / 1e9:,.0f} GB"


if __name__ == "__main__":
    print(tables())
