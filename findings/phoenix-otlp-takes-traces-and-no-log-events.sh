#!/usr/bin/env bash
# Arize Phoenix as the OTLP receiver of an application that reports evaluations of its answers as OpenTelemetry's
# GenAI conventions have it: `gen_ai.evaluation.result` is an event, so it travels as a log record, to /v1/logs.
# Expected: a platform for evaluations that offers OTLP takes this event, or the exporter's error says what it lacks.
# Seen (arize-phoenix 20.26.1, opentelemetry-sdk 1.45.2): /v1/traces takes spans; /v1/logs is no address of its own,
# and the page that answers in its stead refuses the method: 405. OpenTelemetry's exporter reports a plain failure,
# and every evaluation is lost; it must go through Phoenix's own annotations.
set -euo pipefail
folder=$(mktemp -d)
trap '[ -z "${server:-}" ] || kill "$server" 2>/dev/null || true; sleep 1; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q arize-phoenix==20.26.1 opentelemetry-sdk==1.45.2 \
    opentelemetry-exporter-otlp-proto-http==1.45.2
export PHOENIX_WORKING_DIR="$folder/data" PHOENIX_HOST=127.0.0.1 PHOENIX_PORT=6123 PHOENIX_GRPC_PORT=6124
export PHOENIX_TELEMETRY_ENABLED=false
"$folder/venv/bin/phoenix" serve >"$folder/server.log" 2>&1 &
server=$!
cat >"$folder/send.py" <<'PYTHON'
import sys
import time
import urllib.request
from importlib.metadata import version

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

ADDRESS = "http://127.0.0.1:6123"
results = {}


class Kept:
    """Passes everything on and keeps the exporter's verdict."""

    def __init__(self, name, exporter):
        self.name, self.exporter = name, exporter

    def export(self, batch):
        results[self.name] = self.exporter.export(batch).name
        return None

    def shutdown(self):
        self.exporter.shutdown()

    def force_flush(self, timeout_millis=0):
        return True


for _ in range(180):
    try:
        urllib.request.urlopen(ADDRESS + "/healthz", timeout=2)
        break
    except OSError:
        time.sleep(1)
tracing = TracerProvider()
tracing.add_span_processor(SimpleSpanProcessor(Kept("span", OTLPSpanExporter(ADDRESS + "/v1/traces"))))
with tracing.get_tracer("app").start_as_current_span("chat"):
    pass
logging = LoggerProvider()
logging.add_log_record_processor(
    SimpleLogRecordProcessor(Kept("event", OTLPLogExporter(ADDRESS + "/v1/logs", timeout=5)))
)
logging.get_logger("app").emit(
    LogRecord(
        timestamp=time.time_ns(),
        severity_number=SeverityNumber.INFO,
        event_name="gen_ai.evaluation.result",
        attributes={"gen_ai.evaluation.name": "drift", "gen_ai.evaluation.score.value": 0.4},
    )
)
print("arize-phoenix", version("arize-phoenix"), results)
sys.exit(0 if results == {"span": "SUCCESS", "event": "FAILURE"} else "CHANGED")
PYTHON
"$folder/venv/bin/python" "$folder/send.py"
