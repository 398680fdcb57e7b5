"""A model under examination: the engine on it, and plain passes to compare it with.

A plain pass has no cache, no padding and no hook of Keel's in it: equation 1 is written out here
once more, in a hook of its own, so that the two cannot be wrong together. Shared is only where the
stream lies in what a block returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from keel.engines import ChatTemplate, Completion, Recording, context_tokens
from keel.engines.transformers import TransformersEngine
from keel.errors import ContextLengthError
from keel.steering import Intervention
from keel.types import Conversation, Floor, Message, Prompt, Sampling

TEXTS = (
    "Who are you?",
    "Tell me of the ghost and the pirate who sailed together to the end of the world.",
    "Hi",
    "What is the model doing there now?",
)
"""What the model is asked: of unequal length, so that a batch of them is padded."""
REPLY = "I am the model, and the ghost is not."
_SEEDS = (11, 12, 13, 14)
_NEW_TOKENS = 10
_SHORTEST = "Hi"
_ROOM = 4
"""Tokens that a context must have beside the shortest prompt, for an answer to be looked at."""

Positions = Callable[[int], Tensor]
"""Of a conversation of so many tokens, 1 at each that is moved and 0 elsewhere."""


@dataclass(frozen=True)
class Subject:
    """One model that is examined, with its tokenizer and the engine on both."""

    model: Any
    tokenizer: Any
    blocks: str | Sequence[nn.Module] | None = None

    @cached_property
    def engine(self) -> TransformersEngine:
        """Keel's engine; opened when it is first looked at."""
        return TransformersEngine(self.model, self.tokenizer, blocks=self.blocks)

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template."""
        return ChatTemplate(self.tokenizer)

    @cached_property
    def context(self) -> int | None:
        """How many tokens the model can read; None where nothing bounds it."""
        return context_tokens(self.model)

    @cached_property
    def new_tokens(self) -> int:
        """How many tokens an answer has: half of what the shortest prompt leaves of the context.

        Raises ContextLengthError where that is next to nothing.
        """
        if self.context is None:
            return _NEW_TOKENS
        shortest = len(self.template.prompt_ids(asking(_SHORTEST)))
        if shortest + _ROOM > self.context:
            raise ContextLengthError(
                f"the model's context holds {self.context} tokens, and the chat template makes "
                f"{shortest} of the shortest question: no conversation fits into it; take a model "
                "with a longer context"
            )
        return min(_NEW_TOKENS, (self.context - shortest) // 2)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """A prompt for each text, or for so many of its words as leave room for an answer."""

        def length(text: str) -> int:
            return len(self.template.prompt_ids(asking(text))) + self.new_tokens

        texts = [self._cut(text, length) for text in TEXTS]
        return [Prompt(f"p{n}", asking(text)) for n, text in enumerate(texts)]

    def talk(self, text: str) -> Conversation:
        """A question with its answer, both cut where the context is short."""

        def length(text: str, reply: str) -> int:
            conversation = asking(text).with_reply(reply)
            return len(self.template.transcript(conversation).token_ids)

        text = self._cut(text, lambda words: length(words, REPLY.split()[0]))
        return asking(text).with_reply(self._cut(REPLY, lambda words: length(text, words)))

    def _cut(self, text: str, length: Callable[[str], int]) -> str:
        """The text without its last words, where it is longer than the context with them."""
        words = text.split()
        while len(words) > 1 and length(" ".join(words)) > (self.context or math.inf):
            words.pop()
        text = " ".join(words)
        return text if length(text) <= (self.context or math.inf) else _SHORTEST

    @cached_property
    def ids_BT(self) -> Tensor:
        """Tokens of a whole conversation, alone in their batch."""
        self.new_tokens  # refused here where no conversation fits  # noqa: B018
        return self.row(self.template.transcript(self.talk(TEXTS[1])).token_ids)

    @cached_property
    def floors(self) -> tuple[Floor, ...]:
        """Floors at two layers that a plain pass reaches, above most tokens' projections."""
        streams = self.streams(self.ids_BT)
        layers = sorted(streams)
        start = len(layers) // 3
        generator = torch.Generator().manual_seed(5)
        floors = []
        for layer in layers[start : start + 2]:
            direction = torch.randn(streams[layer].shape[-1], generator=generator)
            direction = direction / direction.norm()
            projections_T = streams[layer].cpu() @ direction
            value = float(projections_T.median() + projections_T.std())
            floors.append(Floor(layer, direction, value))
        return tuple(floors)

    def row(self, token_ids: Sequence[int]) -> Tensor:
        """A batch of one conversation, on the model's device."""
        return torch.tensor(
            [list(token_ids)], device=self.model.get_input_embeddings().weight.device
        )

    def plain_logits(self, ids_BT: Tensor) -> Tensor:
        """Logits [token, vocabulary] of one conversation, in float32 on the CPU."""
        with torch.inference_mode():
            logits: Tensor = self.model(input_ids=ids_BT, use_cache=False).logits[0]
        return logits.float().cpu()

    def capped_logits(self, ids_BT: Tensor, where: Positions | None = None) -> Tensor:
        """The same with this subject's floors held by hand, everywhere or at some positions."""
        with self.held_by_hand(where):
            return self.plain_logits(ids_BT)

    def streams(self, ids_BT: Tensor) -> dict[int, Tensor]:
        """The residual stream [token, hidden] behind each block that a plain pass runs."""
        streams: dict[int, Tensor] = {}
        layout = self.engine.decoder.layout

        def keep(layer: int) -> Callable[..., None]:
            def hook(_block: nn.Module, _args: Any, output: Any) -> None:
                streams[layer] = layout.stream_in(output)[0].detach().float()

            return hook

        with ExitStack() as stack:
            for layer, block in enumerate(self.engine.decoder.blocks):
                stack.callback(block.register_forward_hook(keep(layer)).remove)
            self.plain_logits(ids_BT)
        return streams

    @contextmanager
    def held_by_hand(self, where: Positions | None = None) -> Iterator[None]:
        """Equation 1, h + max(τ − ⟨h, v⟩, 0)·v, written plainly at each floor's block."""
        layout = self.engine.decoder.layout

        def hold(floor: Floor) -> Callable[..., Any]:
            def hook(_block: nn.Module, _args: Any, output: Any) -> Any:
                hidden = layout.stream_in(output)
                direction = floor.direction.to(hidden.device)
                lacking = (floor.value - hidden.float() @ direction).clamp_min(0)
                if where is not None:
                    lacking = lacking * where(hidden.shape[1]).to(hidden.device)
                held = (hidden.float() + lacking[..., None] * direction).to(hidden.dtype)
                return layout.put_back(output, held)

            return hook

        with ExitStack() as stack:
            for floor in self.floors:
                block = self.engine.decoder.blocks[floor.layer]
                stack.callback(block.register_forward_hook(hold(floor)).remove)
            yield

    def answers(
        self, prompts: Sequence[Prompt], interventions: Sequence[Intervention] = ()
    ) -> list[Completion]:
        """Completions in the order of the prompts, with their means; each draws by its own seed."""
        completions = self.engine.generate(
            prompts,
            Sampling(max_new_tokens=self.new_tokens, temperature=1.0, top_p=1.0),
            seed=_SEEDS[: len(prompts)],
            recording=Recording(means=True),
            interventions=interventions,
        )
        return sorted(completions, key=lambda completion: completion.index)

    def plain_means(self, prompt: Prompt, completion: Completion) -> dict[int, Tensor]:
        """The mean stream over an answer's tokens, by layer, of a plain pass over all of it."""
        before = self.template.prompt_ids(prompt.conversation)
        streams = self.streams(self.row([*before, *completion.token_ids]))
        return {layer: stream[len(before) :].mean(0).cpu() for layer, stream in streams.items()}

    @contextmanager
    def ended_by(self, tokens: Sequence[int]) -> Iterator[None]:
        """Lets further tokens end an answer, for as long as the context lasts."""
        config = self.model.generation_config
        before = config.eos_token_id
        listed = before if isinstance(before, list | tuple) else [before]
        config.eos_token_id = [*(token for token in listed if token is not None), *tokens]
        try:
            yield
        finally:
            config.eos_token_id = before


def asking(text: str) -> Conversation:
    """A conversation of one user message."""
    return Conversation((Message("user", text),))
