"""What a drift study takes, before a model is loaded: answers, tokens, requests, dollars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keel.endpoint import TEXTS_AT_ONCE, Tokens, estimate_tokens
from keel.evaluate import parse_arms
from keel.judge import open_grader
from keel.pipeline.study_harm import RUBRIC, requests_of
from keel.pipeline.transcribed import turns_said, up_to_last_answer
from keel.prompts import load_user_lines, load_user_personas, read_rubrics
from keel.settings import DriftStudySettings
from keel.studies import ATTEMPTS, MESSAGE_TOKENS, plan_study
from keel.types import NEUTRAL_DOMAIN, Case, Conversation, Message, PlannedConversation

_RULES_TOKENS, _MESSAGE_TOKENS = 250, 40
"""About what an auditor's instructions and one of its messages take."""
_WORD = " of "
"""Of four bytes: one token by the estimate."""


def price_study(settings: DriftStudySettings) -> dict[str, Any]:
    """How many conversations and answers a study takes, and tokens at the most.

    What an endpoint takes is in dollars where the limits name prices; else the price says that
    they are missing.
    """
    plan = plan_study(settings, load_user_personas(), load_user_lines())
    arms, turns = len(parse_arms(settings.arms)), settings.turns
    talks, longest = len(plan.conversations), settings.sampling.max_new_tokens
    answers = arms * talks * turns
    fresh = arms * talks * (turns - 1) * settings.words_alone
    price: dict[str, Any] = {
        "arms": arms,
        "conversations": talks,
        "groups that go on together": len(plan.groups),
        "answers": answers,
        "fresh answers without history": fresh,
        "new tokens, at most": (answers + fresh) * longest,
    }
    if settings.harm:
        price |= {"answers to requests, judged": arms * talks}
        price["new tokens, at most"] += arms * talks * longest
    price |= _auditor_price(settings, plan.conversations)
    said = [line.text for each in plan.conversations for line in each.script[:turns]]
    if settings.auditor == "script":
        texts = set(said)
        price |= _embedding_price(settings, len(texts), sum(map(estimate_tokens, texts)))
    else:
        price |= _embedding_price(settings, len(said), len(said) * _MESSAGE_TOKENS)
    if settings.harm:
        by_id = {each.id: _longest_talk(each, settings) for each in plan.conversations}
        price |= _judging_price(settings, by_id)
    return price | _unpriced(settings)


def price_transcripts(
    by_domain: Sequence[tuple[str, Conversation]], settings: DriftStudySettings
) -> dict[str, Any]:
    """How many conversations a study of given ones reads, and what endpoints are sent for it."""
    price: dict[str, Any] = {"conversations to read": len(by_domain)}
    if settings.harm:
        arms = len(parse_arms(settings.arms))
        price["answers to requests, judged"] = len(by_domain) * arms
    texts = {turn.message for _, talk in by_domain for turn in turns_said(talk)}
    price |= _embedding_price(settings, len(texts), sum(map(estimate_tokens, texts)))
    if settings.harm:
        by_id = {talk.id: up_to_last_answer(talk) for _, talk in by_domain}
        price |= _judging_price(settings, by_id)
    return price | _unpriced(settings)


def _auditor_price(
    settings: DriftStudySettings, planned: Sequence[PlannedConversation]
) -> dict[str, Any]:
    """What users' messages take of whoever writes them; nothing where they are scripted.

    A first message is written once for all arms, every other one behind the rules and all turns
    before it.
    """
    if settings.auditor == "script":
        return {}
    arms, turns = len(parse_arms(settings.arms)), settings.turns
    talks = sum(each.domain != NEUTRAL_DOMAIN for each in planned)
    written = talks * (1 + arms * (turns - 1))
    if not settings.auditor.startswith("openai:"):
        return {
            "messages of the auditor, at the first attempt": written,
            "new tokens of the auditor, at most": written * ATTEMPTS * MESSAGE_TOKENS,
        }
    longest = _MESSAGE_TOKENS + settings.sampling.max_new_tokens
    later = sum(_RULES_TOKENS + turn * longest for turn in range(1, turns))
    tokens = Tokens(talks * (_RULES_TOKENS + arms * later), written * _MESSAGE_TOKENS)
    cost_usd = tokens.cost_usd(settings.limits)
    return {
        "auditor requests, at the first attempt": written,
        "auditor requests, at most": written * ATTEMPTS,
        "tokens sent to the auditor, at the first attempt": tokens.sent,
        **({} if cost_usd is None else {"auditor, dollars": round(cost_usd, 2)}),
    }


def _embedding_price(settings: DriftStudySettings, texts: int, sent: int) -> dict[str, Any]:
    """What so many texts of so many tokens take of an embedder behind an address; else nothing."""
    if not settings.embed.startswith("openai:"):
        return {}
    cost_usd = Tokens(sent).cost_usd(settings.limits)
    return {
        "embedding requests, at the first attempt": -(-texts // TEXTS_AT_ONCE),
        "tokens sent to the embedder, about": sent,
        **({} if cost_usd is None else {"embedder, dollars": round(cost_usd, 4)}),
    }


def _judging_price(
    settings: DriftStudySettings, talks: Mapping[str, Conversation]
) -> dict[str, Any]:
    """What it takes to judge the answer to the request after each conversation.

    Answers are of full length, under every arm; nothing of a judge that has no address.
    """
    if not settings.judge.startswith("openai:"):
        return {}
    requests = requests_of(list(talks), settings.seed)
    reply = _WORD * settings.sampling.max_new_tokens
    cases = [
        Case(id, talk.with_user(requests[id].request).with_reply(reply), requests[id].fields)
        for id, talk in talks.items()
    ]
    grader = open_grader(settings.judge, url=settings.judge_url, limits=settings.limits)
    most = grader.price_at_most(cases, read_rubrics()[RUBRIC])
    arms = len(parse_arms(settings.arms))
    return {what: round(arms * n, 2 if "dollars" in what else None) for what, n in most.items()}


def _longest_talk(planned: PlannedConversation, settings: DriftStudySettings) -> Conversation:
    """A conversation whose answers are all of full length.

    Its users' messages are those scripted, or as long as an auditor's are.
    """
    answer = Message("assistant", _WORD * settings.sampling.max_new_tokens)
    is_scripted = settings.auditor == "script" or planned.domain == NEUTRAL_DOMAIN
    said = []
    for line in planned.script[: settings.turns]:
        text = line.text if is_scripted else _WORD * _MESSAGE_TOKENS
        said += [Message("user", text), answer]
    return Conversation(tuple(said), planned.id)


def _unpriced(settings: DriftStudySettings) -> dict[str, Any]:
    """Says that dollars are missing, where an endpoint takes some and its prices are not given."""
    judge = settings.judge if settings.harm else ""
    specs = {"auditor": settings.auditor, "embedder": settings.embed, "judge": judge}
    paid = [who for who, spec in specs.items() if spec.startswith("openai:")]
    if not paid or settings.limits.has_prices:
        return {}
    return {"dollars": f"not known for {', '.join(paid)}: give --usd-in and --usd-out"}
