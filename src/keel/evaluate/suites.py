"""Suites: registered by name, and the builders of Keel's own from prompts given as values.

A suite is what is asked and what counts in the answers. To add one, decorate a function that
returns it::

    @suite("greetings")
    def greetings() -> Suite: ...

A package offers suites under the entry point group `keel.suites`: name = module that registers it.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import lcm, prod
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import TypeVar

from keel.errors import UsageError
from keel.registry import Registry
from keel.types import Conversation, Item, Message, Sampling, Suite
from keel.words import listed

MakeSuite = TypeVar("MakeSuite", bound=Callable[..., Suite])

SUITES: Registry[Callable[..., Suite]] = Registry("suite", "keel.suites")
"""Suites by name; Keel's own are there once `keel.pipeline` is imported."""

COMPLETIONS = 100
"""Of each prefill under each arm. The paper has 400, of five prefills."""
ITEMS_PER_ROLE = 10
"""Of drift-harm: with ten questions, each once."""
_SHORT = Sampling(max_new_tokens=128)
"""Labels go by what is named first, so the paper's 512 tokens would add nothing but time."""
_LONG = Sampling(max_new_tokens=256)
HARMFUL = ("harmful_mild", "harmful_full")
"""Labels of the rubric `harm` that count."""


def suite(name: str) -> Callable[[MakeSuite], MakeSuite]:
    """Register the function that makes the suite of that name.

    Its parameter `data`, if it has one, is the user's file of items, None where none is given;
    `requests_per_answer` says how many requests follow each first answer, None where nobody said.
    """

    def register(make: MakeSuite) -> MakeSuite:
        SUITES.add(name, make, make)
        return make

    return register


def open_suite(
    name: str, data: Path | None = None, *, requests_per_answer: int | None = None
) -> Suite:
    """The suite of that name, of the user's file of items where one is given.

    Raises UsageError, listing all names, for one that is not registered, and where a file or a
    number of requests is given for a suite that takes none.
    """
    make = SUITES.get(name)
    options = {"data": data, "requests_per_answer": requests_per_answer}
    for option, value in options.items():
        if value is not None and not _takes(make, option):
            taking = [other for other, made in SUITES.registered.items() if _takes(made, option)]
            flag = f"--{option.replace('_', '-')}"
            raise UsageError(f"{name} has items of its own; {flag} is for {listed(taking)}")
    return make(**{option: value for option, value in options.items() if _takes(make, option)})


def _takes(make: Callable[..., Suite], option: str) -> bool:
    return option in inspect.signature(make).parameters


@dataclass(frozen=True)
class Attack:
    """A persona that asks for something which a default assistant declines."""

    id: str
    persona: str
    """System prompt; empty where no persona is set."""
    request: str
    category: str
    good_answer: str = ""
    """What a good answer does; empty where it is not known."""

    @property
    def fields(self) -> dict[str, str]:
        """What the rubric's instruction asks for."""
        good_answer = self.good_answer or "Not said."
        return {"request": self.request, "category": self.category, "good_answer": good_answer}


def susceptibility_suite(
    roles: Mapping[str, Sequence[str]], questions: Sequence[str], sampling: Sampling = _LONG
) -> Suite:
    """How readily the model gives up its own name for a human's.

    Jobs near to an assistant's, asked who they are (Lu et al. 2026, §3.2.1, arXiv:2601.10387).

    `roles` are role -> system prompts, as many for each. Counted are answers of someone who claims
    to be anything but an assistant. Ordered so that the first N items spread evenly.
    """
    counts = {len(prompts) for prompts in roles.values()}
    if len(counts) != 1 or not questions:
        raise UsageError(
            f"roles have {sorted(counts)} system prompts and there are {len(questions)} questions; "
            "expected as many prompts for each role, and one question or more"
        )
    names, items = list(roles), []
    for role, question, prompt in balanced_walk([len(names), len(questions), counts.pop()]):
        name = names[role]
        items.append(
            Item(
                f"{name}/p{prompt}/q{question}",
                _talk(roles[name][prompt], questions[question]),
                factors={"role": name, "question": f"q{question}"},
                fields={"role": name},
            )
        )
    return Suite(
        name="susceptibility",
        items=tuple(items),
        rubric="identity",
        measure="answers of one who is not an assistant",
        counted=("human", "nonhuman", "mystical"),
        sampling=sampling,
    )


def jailbreak_suite(attacks: Sequence[Attack], sampling: Sampling = _LONG) -> Suite:
    """Whether a persona makes the model do what it would decline.

    Persona × request, and each request alone as baseline (Lu et al. 2026, §3.2.1,
    arXiv:2601.10387).

    Counted are answers that harm in part or in full. Ordered so that the first N attacks are of
    as many personas and requests as there are.
    """
    personas = _numbered(attack.persona for attack in attacks)
    requests = _numbered(attack.request for attack in attacks)
    items = [
        Item(
            attack.id,
            _talk(attack.persona, attack.request),
            factors={
                "persona": f"persona {personas[attack.persona]}",
                "request": f"request {requests[attack.request]}",
            },
            fields=attack.fields,
        )
        for attack in in_balance(attacks)
    ]
    bare = {attack.request: attack for attack in attacks if attack.persona.strip()}
    items += [
        Item(
            f"alone/{requests[request]}",
            _talk("", request),
            factors={"request": f"request {requests[request]}"},
            fields=attack.fields,
            is_baseline=True,
        )
        for request, attack in bare.items()
    ]
    return Suite("jailbreak", tuple(items), "harm", "harmful answers", HARMFUL, sampling=sampling)


def drift_harm_suite(
    roles: Mapping[str, Sequence[str]],
    questions: Sequence[str],
    requests: Sequence[Attack],
    *,
    per_role: int = ITEMS_PER_ROLE,
    requests_per_answer: int | None = None,
    sampling: Sampling = _LONG,
) -> Suite:
    """Whether a model that has drifted does more harm.

    A role answers a neutral question, then gets a request (Lu et al. 2026, §4.3 and figure 8,
    arXiv:2601.10387).

    The second answer is judged. `roles` are role -> system prompts; `requests` are used without
    their personas. `requests_per_answer` requests follow each first answer, of every role to every
    question: as many as there are make the cross of the paper; None takes `per_role` items of each
    role. Ordered so that the first N items spread evenly over roles, questions and requests. Items
    that begin with the same role and question share the first answer. More requests for each
    answer hold all items of fewer.
    """
    if requests_per_answer is not None and not 1 <= requests_per_answer <= len(requests):
        raise UsageError(
            f"requests_per_answer is {requests_per_answer}, expected 1 to {len(requests)}, the "
            "requests that there are; give others with --data"
        )
    if not roles or not questions or not requests or per_role < 1:
        raise UsageError(
            f"drift-harm was given {len(roles)} roles, {len(questions)} questions and "
            f"{len(requests)} requests, {per_role} items a role; expected one or more of each"
        )
    names, items = list(roles), []
    walk = balanced_walk([len(names), len(questions), len(requests)])
    if requests_per_answer is None:
        walk = walk[: per_role * len(names)]
    after: Counter[tuple[int, int]] = Counter()
    for role, question, request in walk:
        after[role, question] += 1
        if requests_per_answer is not None and after[role, question] > requests_per_answer:
            continue
        name, prompts, attack = names[role], roles[names[role]], requests[request]
        items.append(
            Item(
                f"{name}/q{question}/r{request}",
                _talk(prompts[question % len(prompts)], questions[question]),
                factors={"role": name, "question": f"q{question}", "request": f"r{request}"},
                fields=attack.fields,
                follow_up=attack.request,
            )
        )
    return Suite(
        "drift-harm", tuple(items), "harm", "harmful second answers", HARMFUL, sampling=sampling
    )


def base_purpose_suite(
    prefills: Sequence[str], *, completions: int = COMPLETIONS, sampling: Sampling = _SHORT
) -> Suite:
    """What a base model says it is for.

    Beginnings of a sentence on one's purpose, each finished many times (Lu et al. 2026, §3.2.2 and
    figure 6, arXiv:2601.10387).
    """
    return Suite(
        name="base-purpose",
        items=_completions("purpose", prefills, completions),
        rubric="purpose",
        measure="supportive and professional purposes",
        # Named more often by a base model that is steered towards the Assistant.
        counted=("care", "teaching", "service", "business"),
        sampling=sampling,
    )


def base_traits_suite(
    prefills: Sequence[str], *, completions: int = COMPLETIONS, sampling: Sampling = _SHORT
) -> Suite:
    """What a base model says it is like.

    Beginnings of a sentence on oneself, each finished many times (Lu et al. 2026, §3.2.2 and figure
    6, arXiv:2601.10387).
    """
    return Suite(
        name="base-traits",
        items=_completions("traits", prefills, completions),
        rubric="self_description",
        measure="descriptions as warm or reliable",
        counted=("warmth", "reliability"),
        sampling=sampling,
    )


def in_balance(attacks: Sequence[Attack]) -> list[Attack]:
    """The attacks in an order whose beginning spreads over personas and requests.

    Of a whole grid each level comes once before any comes twice. Of a part of one that holds for
    personas, and requests come as chance has it.
    """
    personas = _numbered(attack.persona for attack in attacks)
    requests = _numbered(attack.request for attack in attacks)
    cells = {(personas[a.persona], requests[a.request]): a for a in attacks}
    if len(cells) == len(attacks) == len(personas) * len(requests):
        return [cells[p, r] for p, r in balanced_walk([len(personas), len(requests)])]
    shuffled = Random(0).sample(attacks, len(attacks))
    # The first of each persona, then the second of each, and so on.
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, Attack]] = []
    for attack in shuffled:
        seen[attack.persona] += 1
        ranked.append((seen[attack.persona], attack))
    return [attack for _, attack in sorted(ranked, key=itemgetter(0))]


def balanced_walk(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every cell of a grid once, each factor's levels shuffled; the same for all users.

    In any beginning of the walk, a level occurs at most once more than another of the same
    factor; so ten of a thousand cells are ten personas asked ten things.

    >>> walk = balanced_walk([2, 3])
    >>> len(set(walk)), {a for a, b in walk[:2]}, {b for a, b in walk[:3]}
    (6, {0, 1}, {0, 1, 2})
    """
    chance = Random(0)
    shuffled = [chance.sample(range(size), size) for size in sizes]
    walk = []
    for step in range(prod(sizes)):
        cell, before = [], 1
        for levels in shuffled:
            size = len(levels)
            # All factors advance together. Whenever a factor is back where it and those before it
            # began, it is moved on by one: else it would meet the same cells again.
            here = step % (before * size)
            cell.append(levels[(here + here // lcm(before, size)) % size])
            before *= size
        walk.append(tuple(cell))
    return walk


def _completions(kind: str, prefills: Sequence[str], completions: int) -> tuple[Item, ...]:
    """Every prefill once, then every prefill again: the first N items spread evenly.

    What the model is given is among the fields, so that its own words can be told apart.
    """
    if completions < 1 or not prefills:
        raise UsageError(
            f"{completions} completions of {len(prefills)} prefills on {kind} asked for, expected "
            "one or more of both"
        )
    return tuple(
        Item(
            f"{kind}/{number}/{sample}",
            Conversation((Message("assistant", text),)),
            factors={"prefill": text},
            fields={"prefill": text},
        )
        for sample in range(completions)
        for number, text in enumerate(prefills)
    )


def _talk(system: str, user: str) -> Conversation:
    """A user's message, after a system prompt where that has words."""
    opening = [Message("system", system)] if system.strip() else []
    return Conversation((*opening, Message("user", user)))


def _numbered(values: Iterable[str]) -> dict[str, int]:
    """Each different value with its number, in order of appearance."""
    return {value: number for number, value in enumerate(dict.fromkeys(values))}
