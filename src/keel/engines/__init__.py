"""Where a model runs: one Protocol, one package per engine."""

from keel.engines.catalogue import (
    EMBEDDED,
    cache_folder,
    locate,
    spoken_name,
    unpacked_fingerprint,
)
from keel.engines.chat_template import ChatTemplate
from keel.engines.context import check_context, fits_context
from keel.engines.decoding import text_before
from keel.engines.opening import (
    check_untrained,
    open_engine,
    open_untrained,
    parse_engine,
    settings_class,
)
from keel.engines.protocol import Batch, Budget, Engine, KeepsPrompts, LocalModel, Recording
from keel.engines.rendered_tokens import Transcript, Turn
from keel.engines.results import (
    Calls,
    Completion,
    Divergence,
    Reading,
    Results,
    TurnRecord,
    engine_call,
)
from keel.steering import Probe

__all__ = [
    "EMBEDDED",
    "Batch",
    "Budget",
    "Calls",
    "ChatTemplate",
    "Completion",
    "Divergence",
    "Engine",
    "KeepsPrompts",
    "LocalModel",
    "Probe",
    "Reading",
    "Recording",
    "Results",
    "Transcript",
    "Turn",
    "TurnRecord",
    "cache_folder",
    "check_context",
    "check_untrained",
    "engine_call",
    "fits_context",
    "locate",
    "open_engine",
    "open_untrained",
    "parse_engine",
    "settings_class",
    "spoken_name",
    "text_before",
    "unpacked_fingerprint",
]
