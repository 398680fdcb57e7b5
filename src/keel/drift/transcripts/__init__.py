"""Reads conversations from the files that people have. Knows nothing of models.

files      a file's text becomes values: JSON, JSON Lines, CSV, Parquet, a zip, plain text
forms      a value becomes an outline: one registered adapter per program that writes it
rows       values that are a message each become conversations
messages   an outline's messages become text, and what is not text is noted
reading    all of it, file by file
"""

from keel.drift.transcripts.forms import FORMS, Outline, transcript_form
from keel.drift.transcripts.reading import Transcripts, read_conversations, read_transcripts

__all__ = [
    "FORMS",
    "Outline",
    "Transcripts",
    "read_conversations",
    "read_transcripts",
    "transcript_form",
]
