"""Items answered by a model behind an OpenAI-compatible address.

Its inside is out of reach: no projection, no perplexity. Of arms it knows words, and the settings
that a server of Keel's has under their names. The key comes from the environment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from keel.errors import EndpointError, MissingExtraError, NotAppliedError, UsageError
from keel.evaluate.answering import Replies, Reply
from keel.evaluate.arm_making import spoken_arms
from keel.evaluate.arm_names import ArmSpec
from keel.evaluate.arms import Arm
from keel.types import UNSTEERED, Conversation, Message, ModelIdentity, Sampling

_KEY_VARIABLE = "OPENAI_API_KEY"
_NO_KEY = "none"
"""What a server is told that asks for no key."""
_SERVED_AS_IT_IS = ""
_UNKNOWN = "keel-evaluate-asks-whether-settings-are-known"
_BATCH = 16
_WORKERS = 8


@dataclass(frozen=True)
class ServedArms:
    """Arms of a served model, and which of the server's settings each asks for."""

    arms: tuple[Arm, ...]
    settings: Mapping[str, str]
    """Arm -> name of the setting; empty where a request says nothing of it."""
    warnings: tuple[str, ...] = ()


def served_arms(specs: Sequence[ArmSpec]) -> ServedArms:
    """Arms for a model behind an address: `none`, words, and `capped[:SETTING]` by its own name.

    Where a setting is asked for, the unsteered arm asks for none; else it says nothing of
    settings, as any server understands. Raises UsageError for an arm that reaches further in.
    """
    capped = {spec.name: spec for spec in specs if spec.kind == "capped"}
    spoken = {arm.name: arm for arm in spoken_arms([s for s in specs if s.kind != "capped"])}
    arms = tuple(_capped(spec) if spec.name in capped else spoken[spec.name] for spec in specs)
    plain = UNSTEERED if capped else _SERVED_AS_IT_IS
    settings = {arm.name: capped[arm.name].setting if arm.name in capped else plain for arm in arms}
    told = (
        "that nothing steers the model is the word of whoever serves it: no setting was asked for"
    )
    return ServedArms(arms, settings, () if capped else (told,))


@dataclass(frozen=True)
class ServedAnswerer:
    """A model behind an address; several requests at a time, retried by the client."""

    model: str
    base_url: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Arm -> setting of the server's, from `served_arms`."""
    timeout_s: float = 300.0
    retries: int = 6
    """Of a request that was refused for now (429, 5xx) or not answered in time."""
    stops: tuple[str, ...] = ()
    """Texts at which the server is to end an answer."""

    def __post_init__(self) -> None:
        if not urlsplit(self.base_url).hostname:
            raise UsageError(
                f"address is {self.base_url!r}, expected one such as http://127.0.0.1:8000/v1"
            )

    @property
    def identity(self) -> ModelIdentity:
        """What the server calls it, and where; its shape is not known."""
        return ModelIdentity(f"{self.model}@{urlsplit(self.base_url).netloc}", 0, 0)

    def fingerprint(self, arm: Arm) -> str:
        """The setting asked for, and the arm's own words."""
        told = f"served {self.settings.get(arm.name, '')} {arm.fingerprint}"
        return hashlib.sha256(told.encode()).hexdigest()

    def plan(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> tuple[tuple[int, ...], ...]:
        """Sixteen at a time, in their order: what a kill can cost."""
        places = range(len(conversations))
        return tuple(tuple(places[at : at + _BATCH]) for at in range(0, len(places), _BATCH))

    def answer(
        self,
        conversations: Sequence[Conversation],
        arm: Arm,
        sampling: Sampling,
        *,
        seed: int,
        on_reply: Callable[[], None] = lambda: None,
    ) -> Replies:
        """Ask all of a batch. Raises EndpointError where one is refused, NotAppliedError where
        the server knows no settings and one is asked for."""
        setting = self.settings.get(arm.name, _SERVED_AS_IT_IS)
        found: dict[int, Reply] = {}
        with _client(self) as client:
            ask = _Asking(client, self.model, sampling, setting, self.stops)
            if setting:
                self._check_settings_are_known(ask)
            with ThreadPoolExecutor(_WORKERS) as workers:
                waiting = {
                    workers.submit(ask, arm.change(one), (seed + place) % 2**31): place
                    for place, one in enumerate(conversations)
                }
                for done in as_completed(waiting):
                    found[waiting[done]] = self._told(done.result)
                    on_reply()
        return Replies(tuple(found[place] for place in range(len(conversations))))

    def perplexities(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """None each: the model cannot be read."""
        return [None] * len(conversations)

    def _check_settings_are_known(self, ask: _Asking) -> None:
        """A server of Keel's refuses a setting that it does not have; another takes no notice."""
        import openai

        hello = Conversation((Message("user", "Hello"),))
        try:
            self._told(lambda: replace(ask, setting=_UNKNOWN)(hello, 0))
        except EndpointError as error:
            if isinstance(error.__cause__, openai.BadRequestError):
                return
            raise
        raise NotAppliedError(
            f"{self.base_url} was asked for a setting that does not exist and answered all the "
            "same: it takes no notice of settings, so its arms would all be one; serve the run "
            "with Keel (docs/vllm.md), or take none, prompt, reprompt"
        )

    def _told(self, result: Callable[[], Reply]) -> Reply:
        import openai

        try:
            return result()
        except openai.OpenAIError as error:
            raise EndpointError(
                f"{self.model!r} at {self.base_url} did not answer: {error}; check address, key "
                f"({_KEY_VARIABLE}) and the model's name, and run the same command again"
            ) from error


@dataclass(frozen=True)
class _Asking:
    """One request under one setting."""

    client: Any
    model: str
    sampling: Sampling
    setting: str
    stops: tuple[str, ...] = ()

    def __call__(self, conversation: Conversation, seed: int) -> Reply:
        answer = self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": m.speaker, "content": m.content} for m in conversation.messages],
            max_tokens=self.sampling.max_new_tokens,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            seed=seed,
            **({"stop": list(self.stops)} if self.stops else {}),
            extra_body=self._beyond_openai(conversation),
        )
        choices = getattr(answer, "choices", None)  # a page of HTML comes back as a string
        if not choices:
            raise EndpointError(f"{self.model!r} answered nothing; check address and model")
        text = choices[0].message.content or ""
        usage = getattr(answer, "usage", None)
        tokens = len(text.split()) if usage is None else usage.completion_tokens
        is_cut = choices[0].finish_reason == "length"
        return Reply(text, tokens, "length" if is_cut else "stop")

    def _beyond_openai(self, conversation: Conversation) -> dict[str, Any]:
        """What vLLM understands besides; nothing where nothing is needed."""
        body: dict[str, Any] = {}
        if self.setting:
            body["vllm_xargs"] = {"keel": self.setting}
        if conversation.messages[-1].speaker == "assistant":
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return body


def _client(answerer: ServedAnswerer) -> Any:
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            "asking a model behind an address needs openai, which is not installed; "
            "pip install 'keel-llm[evaluate]'"
        ) from error
    return openai.OpenAI(
        api_key=os.environ.get(_KEY_VARIABLE) or _NO_KEY,
        base_url=answerer.base_url,
        timeout=answerer.timeout_s,
        max_retries=answerer.retries,
    )


def _capped(spec: ArmSpec) -> Arm:
    note = f"the server's setting {spec.setting}" if spec.setting else "as the server holds it"
    return Arm(spec.name, note=note)
