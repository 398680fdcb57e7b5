"""Keel inside vLLM: a plugin that steers and records per request, and the engine that uses it."""

from keel.engines.vllm.answer_sums import (
    FAILED,
    LATE,
    NOT_SEEN,
    AnswerSums,
    UnreadAnswer,
    WatchedRequest,
)
from keel.engines.vllm.asgi import Receive, Scope, Send, header_of, read_body, send_json
from keel.engines.vllm.deployment import Deployment, ServeEnvironment
from keel.engines.vllm.engine import VllmEngine, load_engine
from keel.engines.vllm.faults import FaultLog
from keel.engines.vllm.front import CURRENT, FACTS_PATH, SETTING_HEADER, RequestSetting
from keel.engines.vllm.gate import Gate, ServerAddress
from keel.engines.vllm.metrics import (
    METRICS_PATH,
    NAMED_SETTINGS,
    OTHERS,
    HistogramValue,
    Series,
    adding_series,
)
from keel.engines.vllm.naming import (
    CANDIDATE_HEADER,
    CONVERSATION_FIELD,
    CONVERSATION_HEADER,
    PROBE_HEADER,
    PROVISIONAL_FIELD,
    PROVISIONAL_HEADER,
)
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.page import DRIFT_PATH
from keel.engines.vllm.plugin import FRONT, check_version
from keel.engines.vllm.serving import (
    REFUSE,
    action_of,
    check_weights,
    deployment_for,
    fitting_alarm,
    line_of,
    settings_of,
    vllm_version,
)
from keel.engines.vllm.watch_folder import watch_folder
from keel.settings import VllmSettings

__all__ = [
    "CANDIDATE_HEADER",
    "CONVERSATION_FIELD",
    "CONVERSATION_HEADER",
    "CURRENT",
    "DRIFT_PATH",
    "FACTS_PATH",
    "FAILED",
    "FRONT",
    "LATE",
    "METRICS_PATH",
    "NAMED_SETTINGS",
    "NOT_SEEN",
    "OTHERS",
    "PROBE_HEADER",
    "PROVISIONAL_FIELD",
    "PROVISIONAL_HEADER",
    "REFUSE",
    "SETTING_HEADER",
    "AnswerSums",
    "Deployment",
    "FaultLog",
    "Gate",
    "HistogramValue",
    "PackedInterventions",
    "Receive",
    "RequestSetting",
    "Scope",
    "Send",
    "Series",
    "ServeEnvironment",
    "ServerAddress",
    "UnreadAnswer",
    "VllmEngine",
    "VllmSettings",
    "WatchedRequest",
    "action_of",
    "adding_series",
    "check_version",
    "check_weights",
    "deployment_for",
    "fitting_alarm",
    "header_of",
    "line_of",
    "load_engine",
    "read_body",
    "send_json",
    "settings_of",
    "vllm_version",
    "watch_folder",
]
