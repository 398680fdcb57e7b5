#!/usr/bin/env bash
# The openai client's stream helper (`client.chat.completions.stream`, whose state is `ChatCompletionStreamState`), chunks
# of a compatible server with fields of its own: vLLM's `stop_reason` and `token_ids` beside the delta, a flag and a
# score within it. Both sides let such fields pass: the plain stream shows them as sent.
# Expected: the final completion has the last value, all of them, or none.
# Seen (openai 3.54.0): the numbers of a delta are added up (two flags `true` are 2, two scores 0.5 are 1.0), strings
# joined ("okok"), while beside the delta the first chunk's value stays: vLLM's `stop_reason`, which only the last chunk
# carries, is None, and `token_ids` are those of the first chunk.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openai==3.54.0
cat >"$folder/stream.py" <<'PYTHON'
import http.server
import json
import sys
import threading

import openai

print("openai", openai.__version__)


def chunk(delta, **choice):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "stop_reason": None, **choice}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


CHUNKS = [
    chunk({"role": "assistant", "content": ""}, token_ids=[]),
    chunk({"content": "a", "flag": True, "score": 0.5, "label": "ok"}, token_ids=[5]),
    chunk({"content": "b", "flag": True, "score": 0.5, "label": "ok"}, token_ids=[6]),
    chunk({}, finish_reason="stop", stop_reason=128009, token_ids=[7]),
]


class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in [*map(json.dumps, CHUNKS), "[DONE]"]:
            self.wfile.write(f"data: {event}\n\n".encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")
request = dict(model="m", messages=[{"role": "user", "content": "Hello"}])

last = list(client.chat.completions.create(**request, stream=True))[-1].choices[0]
print("plain stream, last chunk: stop_reason", last.stop_reason, "token_ids", last.token_ids)
with client.chat.completions.stream(**request) as stream:
    choice = stream.get_final_completion().choices[0].to_dict()
server.shutdown()
message = choice["message"]
inside = {name: message.get(name) for name in ("content", "flag", "score", "label")}
beside = {name: choice.get(name) for name in ("finish_reason", "stop_reason", "token_ids")}
print("final completion, within the message:", inside)
print("final completion, beside it:", beside)
is_as_seen = (
    inside == {"content": "ab", "flag": 2, "score": 1.0, "label": "okok"}
    and inside["flag"] is not True
    and beside == {"finish_reason": "stop", "stop_reason": None, "token_ids": []}
    and (last.stop_reason, last.token_ids) == (128009, [7])
)
sys.exit(0 if is_as_seen else "CHANGED")
PYTHON
"$folder/venv/bin/python" "$folder/stream.py"
