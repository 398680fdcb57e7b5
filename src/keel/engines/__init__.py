"""Where a model runs: one Protocol, one package per engine. Names load at their first use.

What models are called is known without torch, so that a slip in a name is refused at once.
"""

from typing import TYPE_CHECKING

from keel.front_doors import lazily, names_of

if TYPE_CHECKING:
    from keel.engines.catalogue import EMBEDDED as EMBEDDED
    from keel.engines.catalogue import cache_folder as cache_folder
    from keel.engines.catalogue import locate as locate
    from keel.engines.catalogue import spoken_name as spoken_name
    from keel.engines.catalogue import unpacked_fingerprint as unpacked_fingerprint
    from keel.engines.chat_template import ChatTemplate as ChatTemplate
    from keel.engines.context import check_context as check_context
    from keel.engines.context import context_tokens as context_tokens
    from keel.engines.context import fits_context as fits_context
    from keel.engines.decoding import text_before as text_before
    from keel.engines.opening import check_untrained as check_untrained
    from keel.engines.opening import open_engine as open_engine
    from keel.engines.opening import open_untrained as open_untrained
    from keel.engines.protocol import Batch as Batch
    from keel.engines.protocol import Budget as Budget
    from keel.engines.protocol import Engine as Engine
    from keel.engines.protocol import KeepsPrompts as KeepsPrompts
    from keel.engines.protocol import LocalModel as LocalModel
    from keel.engines.protocol import Recording as Recording
    from keel.engines.rendered_tokens import Transcript as Transcript
    from keel.engines.rendered_tokens import Turn as Turn
    from keel.engines.results import Calls as Calls
    from keel.engines.results import Completion as Completion
    from keel.engines.results import Divergence as Divergence
    from keel.engines.results import Reading as Reading
    from keel.engines.results import Results as Results
    from keel.engines.results import TurnRecord as TurnRecord
    from keel.engines.results import engine_call as engine_call
    from keel.steering import Probe as Probe

_HOMES = {
    "keel.engines.catalogue": "EMBEDDED cache_folder locate spoken_name unpacked_fingerprint",
    "keel.engines.chat_template": "ChatTemplate",
    "keel.engines.context": "check_context context_tokens fits_context",
    "keel.engines.decoding": "text_before",
    "keel.engines.opening": "check_untrained open_engine open_untrained",
    "keel.engines.protocol": "Batch Budget Engine KeepsPrompts LocalModel Recording",
    "keel.engines.rendered_tokens": "Transcript Turn",
    "keel.engines.results": ("Calls Completion Divergence Reading Results TurnRecord engine_call"),
    "keel.steering": "Probe",
}

__all__ = names_of(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
