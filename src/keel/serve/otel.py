"""Verdicts as OpenTelemetry's event for results of evaluations of generative models.

The conventions are in development (semantic conventions for GenAI, v0.1.0): their names stand here
and nowhere else. Exported by OTLP over HTTP, as the OTEL_ variables say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keel.errors import MissingExtraError
from keel.serve.sinks import Sink, is_verdict

EVENT = "gen_ai.evaluation.result"
NAME, SCORE, LABEL, EXPLANATION = (
    f"gen_ai.evaluation.{part}" for part in ("name", "score.value", "score.label", "explanation")
)


def attributes_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the event for one verdict."""
    since = "" if event.get("since") is None else f", most likely since turn {event['since']}"
    evidence = event["evidence"]
    reason = event["reason"] if evidence is None else f"evidence {evidence:g}"
    return {
        NAME: "keel.drift",
        SCORE: float(event["gaps"]),
        LABEL: str(event["state"]),
        EXPLANATION: f"{reason} at turn {event['turn']}{since}",
    }


def otel_sink() -> Sink:
    """Every verdict as a log record. Raises MissingExtraError without OpenTelemetry's SDK."""
    try:
        from opentelemetry._logs import LogRecord, SeverityNumber
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    except ImportError as error:
        raise MissingExtraError(
            f"KEEL_ALARM_OTEL=1 needs OpenTelemetry: {error}; pip install opentelemetry-sdk "
            "opentelemetry-exporter-otlp-proto-http"
        ) from error
    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    logger = provider.get_logger("keel")

    def emit(event: Mapping[str, Any]) -> None:
        logger.emit(
            LogRecord(
                timestamp=int(event["at"] * 1e9),
                severity_number=SeverityNumber.INFO,
                event_name=EVENT,
                attributes=attributes_of(event),
            )
        )

    return Sink("OpenTelemetry", emit, wants=is_verdict)
