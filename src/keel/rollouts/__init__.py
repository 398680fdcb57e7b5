"""Prompts -> rollouts with their response-mean activations, a batch at a time."""

from keel.rollouts.answer import AnsweredBatch, answer_prompts, batch_seed

__all__ = ["AnsweredBatch", "answer_prompts", "batch_seed"]
