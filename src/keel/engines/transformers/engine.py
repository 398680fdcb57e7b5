"""The engine that runs any causal language model that transformers loads, on CPU or GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from keel.engines.chat_template import ChatTemplate
from keel.engines.context import check_context, context_tokens
from keel.engines.decoding import TextStream, check_recordable, cut_at_stop, has_just_stopped
from keel.engines.protocol import Batch, Budget, LocalModel, Recording
from keel.engines.results import Calls, Completion, Divergence, Reading, engine_call
from keel.engines.transformers.batching import (
    budget_for,
    by_length,
    groups_that_run,
    padded_width,
)
from keel.engines.transformers.generation import (
    Finished,
    GenerationJob,
    run_batch,
    run_prompts,
    uniform_numbers,
)
from keel.engines.transformers.prefixes import KeptPrompts, PaddedPrompts, PromptTokens
from keel.engines.transformers.reading import PaddedBatch, divergences, read_batch
from keel.engines.transformers.recorder import ResponseRecorder
from keel.engines.transformers.running import Passes
from keel.engines.transformers.static import Capture, capture_graph
from keel.engines.transformers.traits import traits_of, why_not_static
from keel.engines.transformers.trial import try_model
from keel.errors import ModelMismatchError, UsageError
from keel.settings import Spans
from keel.steering import Firing, Intervention, find_decoder, steered
from keel.types import Conversation, ModelIdentity, Prompt, Sampling

_calls: WeakKeyDictionary[nn.Module, Calls] = WeakKeyDictionary()
"""By the module that runs the blocks: a call of one engine on a model acts on another's passes."""


class TransformersEngine:
    """A loaded transformers model that answers prompts and reads conversations.

    Memory for a batch is planned from what is free when the engine is made; `budget` can be
    replaced. Not safe for use from several threads.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        identity: ModelIdentity | None = None,
        blocks: str | Sequence[nn.Module] | None = None,
        is_static: bool = False,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer)
        self.blocks = blocks
        self.decoder = find_decoder(model, blocks)
        if self.decoder.hidden_size is None:
            raise UsageError("the model's config names no hidden size; give a config that does")
        self.engine_calls = _calls.setdefault(self.decoder.stack, Calls())
        self.engine_calls.close()
        self.trial = try_model(model, self.decoder, tokenizer, self.device)
        self.budget: Budget = budget_for(self.trial, self.decoder.hidden_size, self.device)
        self.context_tokens = context_tokens(model)
        self.traits = traits_of(model, self.device, self._pad())
        is_cuda = self.device.type == "cuda"
        self.steps_ahead = int(is_cuda)
        """Steps of generation that are begun before the tokens of one are known on the host."""
        self.capture: Capture | None = partial(capture_graph, self.device) if is_cuda else None
        """How steps over a cache of fixed size are captured."""
        self.is_static = is_static
        """Whether to generate over such a cache, where the model allows it."""
        if is_static and self.why_not_static is not None:
            warnings.warn(f"generating without static=true: {self.why_not_static}", stacklevel=2)
        self.identity = self._checked_identity(identity)
        self.prompt_tokens = PromptTokens()
        self._keeps_prompts = False
        self._kept: KeptPrompts | None = None

    @contextmanager
    def keeping_prompts(self) -> Iterator[None]:
        """Inside, each batch's prompts stay in memory until the next batch.

        Prompts that go on from them are computed from there on.

        That gives other last bits than to compute them whole, and the same bits each time that the
        same prompts come in the same order: `prime` makes up for those that were answered before.
        Does nothing for a model that keeps more of a text than its keys and values.
        """
        self._keeps_prompts = True
        try:
            yield
        finally:
            self._keeps_prompts, self._kept = False, None

    def prime(self, prompts: Sequence[Prompt], interventions: Sequence[Intervention] = ()) -> None:
        """Compute prompts as `generate` would, inside `keeping_prompts`, and answer none."""
        self.engine_calls.close()
        rows = [self.template.prompt_ids(prompt.conversation) for prompt in prompts]
        if not (self._keeps_prompts and rows):
            return
        with self._steering(interventions) as steering:
            for group in groups_that_run([len(row) for row in rows], self.traits):
                own = [rows[n] for n in group.indices]
                batch = self._prompt_batch(own, group.width, interventions)
                job = GenerationJob(
                    sampling=Sampling(max_new_tokens=1),
                    end_tokens=frozenset(),
                    uniform_TB=uniform_numbers(0, len(own), 1),
                    recorder=ResponseRecorder(Recording(), self.decoder, len(own), 1),
                    traits=self.traits,
                    steering=steering,
                    on_prompts=partial(self._keep, own, batch, interventions),
                )
                run_prompts(self.model, batch, job)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.decoder.blocks)

    @property
    def batches_continuously(self) -> bool:
        """False: a batch is one padded tensor."""
        return False

    @property
    def local_model(self) -> LocalModel:
        """The model itself, for code that calls it directly."""
        return LocalModel(
            self.model, self.tokenizer, self.blocks, self.budget, self.engine_calls.close
        )

    @cached_property
    def why_not_static(self) -> str | None:
        """What speaks against generating over a cache of fixed size; None where nothing does."""
        return why_not_static(self.model, self.device, self._pad(), self.traits, self.capture)

    def template_facts(self) -> dict[str, str]:
        """What the chat template adds by itself (system prompt, date), in words for display."""
        return self.template.facts()

    def plan(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Batch]:
        """Sort prompts by length into batches that fit in memory. The same call plans the same."""
        lengths = [len(row) for row in self._prompt_rows(prompts, sampling)]
        new_tokens, pads = sampling.max_new_tokens + 1, self.traits.pads_left
        batches = by_length(lengths, new_tokens=new_tokens, budget=self.budget, pads=pads)
        return [Batch(number, indices) for number, indices in enumerate(batches)]

    @engine_call
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        seed: int | Sequence[int],
        recording: Recording = Recording(),
        interventions: Sequence[Intervention] = (),
        on_text: Callable[[int, str], None] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Generator[Completion, None, Firing | None]:
        """Answer one batch, each completion as it finishes. The seed decides every draw."""
        if not prompts:
            return None
        check_recordable(sampling, means=recording.means)
        rows = self._prompt_rows(prompts, sampling)
        uniform_TB = uniform_numbers(seed, len(rows), sampling.max_new_tokens)
        stream = TextStream(self.tokenizer, on_text) if on_text is not None else None
        stops = sampling.stop
        is_stopped = partial(has_just_stopped, self.tokenizer, stop=stops) if stops else None
        is_static = self.is_static and self.why_not_static is None
        with self._steering(interventions) as steering:
            for group in groups_that_run([len(row) for row in rows], self.traits):
                indices = group.indices
                own = [rows[n] for n in indices]
                batch = self._prompt_batch(own, group.width, interventions)
                keeps = self._keeps_prompts and not is_static
                keep = partial(self._keep, own, batch, interventions) if keeps else None
                job = GenerationJob(
                    sampling=sampling,
                    end_tokens=self._end_tokens(),
                    uniform_TB=uniform_TB[:, indices],
                    recorder=ResponseRecorder(
                        recording, self.decoder, len(indices), sampling.max_new_tokens
                    ),
                    traits=self.traits,
                    steering=steering,
                    steps_ahead=self.steps_ahead,
                    is_static=is_static,
                    capture=self.capture if is_static else None,
                    on_token=None if stream is None else _renumbered(stream, indices),
                    on_step=on_step,
                    is_stopped=is_stopped,
                    on_prompts=keep,
                )
                for finished in run_batch(self.model, batch, job):
                    yield self._completion(finished, indices, job)
            return steering.firing() if steering is not None else None

    @engine_call
    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        recording: Recording,
        interventions: Sequence[Intervention] = (),
    ) -> Generator[Reading, None, Firing | None]:
        """Read given conversations in one forward pass each, in order of length."""
        firing: Firing | None = None
        for batch, indices in self._padded_batches(conversations, recording.spans):
            with self._steering(interventions) as steering:
                readings = read_batch(self.model, self.decoder, batch, recording, steering)
                if steering is not None:
                    now = steering.firing()
                    firing = now if firing is None else firing + now
            for reading, index in zip(readings, indices, strict=True):
                yield replace(reading, index=index)
        return firing

    @engine_call
    def divergence(
        self,
        conversations: Sequence[Conversation],
        settings: Sequence[Sequence[Intervention]],
    ) -> Generator[Divergence, None, None]:
        """KL(unsteered ‖ steered) of next-token distributions, for each setting."""
        for batch, indices in self._padded_batches(conversations):
            for divergence in divergences(self.model, self._steering, batch, settings):
                yield replace(divergence, index=indices[divergence.index])

    def close(self) -> None:
        """Break off the call that is open: the model is unsteered afterwards."""
        self.engine_calls.close()

    def _steering(self, interventions: Sequence[Intervention]) -> Any:
        if not interventions:
            return nullcontext()
        return steered(self.model, interventions, blocks=self.blocks)

    def _padded_batches(
        self, conversations: Sequence[Conversation], spans: Spans = "answer"
    ) -> Iterator[tuple[PaddedBatch, tuple[int, ...]]]:
        transcripts = [self.template.transcript(c, spans) for c in conversations]
        lengths = [len(t.token_ids) for t in transcripts]
        check_context(
            [(c.id, n) for c, n in zip(conversations, lengths, strict=True)], self.context_tokens
        )
        # One conversation is read whole, however long.
        tokens = max([self.budget.read_tokens, *map(padded_width, lengths)])
        budget = replace(self.budget, tokens=tokens, rows=tokens)
        pads = self.traits.pads_right
        for indices in by_length(lengths, new_tokens=0, budget=budget, pads=pads):
            rows = [transcripts[index] for index in indices]
            yield PaddedBatch.of(rows, self._pad(), self.device), indices

    def _prompt_rows(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[int]]:
        """Each prompt's tokens. Raises ContextLengthError where no full answer would fit."""
        rows = [self.template.prompt_ids(p.conversation) for p in prompts]
        lengths = [(p.id, len(row)) for p, row in zip(prompts, rows, strict=True)]
        check_context(lengths, self.context_tokens, new_tokens=sampling.max_new_tokens)
        return rows

    def _left_padded(
        self, rows: Sequence[Sequence[int]], width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ids_BT = torch.full((len(rows), width), self._pad())
        mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
        for index, row in enumerate(rows):
            ids_BT[index, width - len(row) :] = torch.tensor(row)
            mask_BT[index, width - len(row) :] = 1
        return ids_BT.to(self.device), mask_BT.to(self.device)

    def _prompt_batch(
        self, rows: Sequence[Sequence[int]], width: int, interventions: Sequence[Intervention]
    ) -> PaddedPrompts:
        """The rows, gone on with from those kept where they do so."""
        kept, self._kept = self._kept, None
        batch = kept.continued(rows, self._pad(), interventions) if kept is not None else None
        if batch is None:
            batch = PaddedPrompts(*self._left_padded(rows, width))
        self.prompt_tokens.count(rows, batch)
        return batch

    def _keep(
        self,
        rows: Sequence[Sequence[int]],
        batch: PaddedPrompts,
        interventions: Sequence[Intervention],
        state: dict[str, Any],
    ) -> None:
        """Keep what a batch's prompts gave, where the next ones may go on from it."""
        if self.traits.passes == Passes() and self.traits.pads_left:
            self._kept = KeptPrompts.of(rows, batch, state, interventions)

    def _completion(
        self, finished: Finished, indices: Sequence[int], job: GenerationJob
    ) -> Completion:
        answer = cut_at_stop(self.tokenizer, finished.token_ids, job.sampling.stop)
        record, projections_TK = finished.record, finished.record.projections_TK
        return Completion(
            indices[finished.row],
            answer.text,
            answer.token_ids,
            finished.finish,
            record.activations,
            None if projections_TK is None else projections_TK[: len(answer.token_ids)],
            record.prompt_K,
        )

    def _end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer: the model's own and the chat template's."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ends = configured if isinstance(configured, list | tuple) else [configured]
        return self.template.end_tokens(token for token in ends if token is not None)

    def _pad(self) -> int:
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def _checked_identity(self, identity: ModelIdentity | None) -> ModelIdentity:
        """The identity with the loaded model's template hash and dtype; refuses a contradiction."""
        own = ModelIdentity(
            model_id=getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__,
            layers=self.layers,
            hidden_size=int(self.decoder.hidden_size or 0),
            template_hash=self.template.hash,
            dtype=str(self.model.dtype).removeprefix("torch."),
        )
        if identity is None:
            return own
        problem = identity.mismatch(own)
        if problem is not None:
            raise ModelMismatchError(f"the loaded model is not the one named: {problem}")
        return replace(identity, template_hash=own.template_hash, dtype=own.dtype)


def _renumbered(
    stream: Callable[[int, int], None], indices: Sequence[int]
) -> Callable[[int, int], None]:
    """The callback for tokens of a group's rows, whose prompts have these indices."""
    return lambda row, token: stream(indices[row], token)
