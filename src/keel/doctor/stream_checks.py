"""Checks of one forward pass: the blocks, their stream, equation 1 on it, what is left behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from keel.doctor.findings import CheckFailedError, CheckSkippedError, check_close
from keel.doctor.subject import TEXTS, Subject
from keel.engines import Recording
from keel.steering import steered
from keel.words import first_line, percent


def check_plain_pass(subject: Subject) -> str:
    """The model predicts from text alone, without Keel."""
    # Not by the chat template, whose refusal is none of the model's.
    ids_BT = subject.row(subject.tokenizer.encode(TEXTS[1])[: subject.context])
    known = subject.model.get_input_embeddings().weight.shape[0]
    if int(ids_BT.max()) >= known:
        raise CheckFailedError(
            f"the tokenizer gives token {int(ids_BT.max())}, but the model has embeddings of "
            f"{known} alone; take the tokenizer that belongs to it"
        )
    try:
        logits_TV = subject.plain_logits(ids_BT)
    except Exception as error:
        raise CheckFailedError(
            f"on text alone, without Keel, the model raises {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    if len(logits_TV) != ids_BT.shape[1]:
        raise CheckFailedError(
            f"on {ids_BT.shape[1]} tokens the model gives {len(logits_TV)} predictions, "
            "expected one for each (prompt tuning puts tokens of its own before them)"
        )
    if not bool(torch.isfinite(logits_TV).all()):
        raise CheckFailedError("without Keel, the model predicts NaN or Inf; try float32")
    return f"{logits_TV.shape[-1]:,} finite logits for each of {len(logits_TV)} tokens"


def check_opening(subject: Subject) -> str:
    """Keel's engine takes the model."""
    engine, dtype = subject.engine, str(subject.model.dtype).removeprefix("torch.")
    subject.ids_BT  # refused here where the chat template refuses  # noqa: B018
    return f"{type(engine.model).__name__} in {dtype}"


def check_blocks(subject: Subject) -> str:
    """Which list of blocks is the decoder, and how wide the stream between them is."""
    decoder = subject.engine.decoder
    ran = subject.streams(subject.ids_BT)
    text = (
        f"{decoder.path}: {len(decoder.blocks)} blocks, a stream of {decoder.hidden_size} numbers"
    )
    idle = sorted(set(range(len(decoder.blocks))) - set(ran))
    return f"{text}; without an image, blocks {idle} do not run" if idle else text


def check_stream(subject: Subject) -> str:
    """Each block's output is what the model itself gives as hidden states."""
    with torch.inference_mode():
        output = subject.model(input_ids=subject.ids_BT, use_cache=False, output_hidden_states=True)
    states = getattr(output, "hidden_states", None)
    if states is None:
        raise CheckSkippedError("the model gives no hidden states to compare with")
    streams = subject.streams(subject.ids_BT)
    if len(states) != len(subject.engine.decoder.blocks) + 1:
        raise CheckSkippedError(
            f"the model gives {len(states)} hidden states, in an order of its own"
        )
    # The first entry is the embedding, but in Mamba and its kin; the last is after the final norm.
    has_embedding = 0 not in streams or not _is_close(states[0][0], streams[0])
    states = states[1:] if has_embedding else states
    layers = [layer for layer in sorted(streams) if layer < len(states) - 1]
    if any(states[layer][0].shape != streams[layer].shape for layer in layers):
        raise CheckSkippedError("the model gives hidden states of another shape than its stream")
    for layer in layers:
        check_close(
            streams[layer],
            states[layer][0].float(),
            f"outputs of block {layer} and hidden states",
        )
    return "blocks return what the model gives as hidden states"


def _is_close(state: Tensor, stream: Tensor) -> bool:
    """Whether a hidden state is this stream, up to rounding."""
    return state.shape == stream.shape and torch.allclose(state.float(), stream, atol=1e-5)


def check_cap(subject: Subject) -> str:
    """A steered pass equals equation 1 written by hand, and differs from an unsteered one."""
    expected = subject.capped_logits(subject.ids_BT)
    with steered(subject.model, subject.floors, blocks=subject.blocks) as steering:
        actual = subject.plain_logits(subject.ids_BT)
        rate = steering.firing().rate
    off = check_close(actual, expected, "logits under floors and under equation 1 by hand")
    if torch.equal(actual, subject.plain_logits(subject.ids_BT)):
        raise CheckFailedError("floors above most tokens change no logit; the blocks lead nowhere")
    return f"equal to equation 1 by hand (off by {off:.0e}); {percent(rate)} of slots moved"


def check_restored(subject: Subject) -> str:
    """What steered and recorded leaves no hook and no changed bit behind."""
    hooks, before = _hooks(subject.model), subject.plain_logits(subject.ids_BT)
    with steered(subject.model, subject.floors, blocks=subject.blocks):
        subject.plain_logits(subject.ids_BT)
    subject.answers(subject.prompts[:1], subject.floors)
    if _hooks(subject.model) != hooks:
        raise CheckFailedError("hooks are left on the model")
    if not torch.equal(subject.plain_logits(subject.ids_BT), before):
        raise CheckFailedError("the model predicts otherwise than before")
    return "the model is itself again, bit for bit"


def check_reading(subject: Subject) -> str:
    """Means, likelihoods and the price of floors on a given conversation, against plain passes."""
    conversation = subject.talk(TEXTS[0])
    transcript = subject.template.transcript(conversation)
    turn, ids_BT = transcript.turns[-1], subject.row(transcript.token_ids)
    dtype = subject.model.dtype
    recording = Recording(means=True, log_likelihood=True)
    (reading,) = subject.engine.read([conversation], recording=recording)
    record = reading.turns[-1]
    assert record.activations is not None
    assert record.log_likelihood_T is not None
    streams = subject.streams(ids_BT)
    for layer, mean_D in enumerate(record.activations.means_LD):
        if layer not in streams:
            raise CheckFailedError(f"block {layer} did not run, yet a mean is recorded of it")
        expected_D = streams[layer][turn.start : turn.stop].mean(0).cpu()
        check_close(mean_D, expected_D, f"means read at layer {layer} and plain", dtype=dtype)
    predicting = slice(turn.start - 1, turn.stop - 1)
    plain_TV = torch.log_softmax(subject.plain_logits(ids_BT)[predicting], -1)
    capped_TV = torch.log_softmax(subject.capped_logits(ids_BT)[predicting], -1)
    actual_T = torch.tensor(transcript.token_ids[turn.start : turn.stop])
    expected_T = plain_TV.gather(-1, actual_T[:, None])[:, 0]
    check_close(record.log_likelihood_T, expected_T, "log-likelihoods read and plain", dtype=dtype)
    (price,) = subject.engine.divergence([conversation], [subject.floors])
    expected_kl = (plain_TV.exp() * (plain_TV - capped_TV)).sum(-1).mean()
    check_close(torch.tensor(price.kl), expected_kl, "prices measured and by hand", dtype=dtype)
    return f"means, likelihoods and price equal plain passes ({price.kl:.2f} nats under the floors)"


def _hooks(model: Any) -> dict[str, tuple[list[int], list[int]]]:
    """The hooks that are on each module."""
    return {
        name: (list(module._forward_hooks), list(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }
