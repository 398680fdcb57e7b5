"""Starts real servers for the tests of this folder, and asks them over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

SMALL = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256")
SMALL += ("--gpu-memory-utilization", "0.3", "--served-model-name", "tiny")


@contextmanager
def served(folder, *arguments, **environment):
    """The base URL of vLLM's server, once it is up, with these environment variables."""
    with running_server(start(folder, port := free_port(), environment, *arguments), port) as url:
        yield url


@contextmanager
def keel_served(floors, *options, arguments=(), **environment):
    """The base URL of what `keel serve` started, once its health is green."""
    process = start_keel(floors, port := free_port(), environment, *options, arguments=arguments)
    with running_server(process, port) as url:
        yield url


def start(folder, port, environment, *arguments):
    """A process of vLLM's server."""
    # What `vllm serve` starts; the command itself looks for a package named `vllm`, and the
    # build for CPUs is named otherwise.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    return _process([*command, *_listening(port), *SMALL, *arguments], environment)


_HEADLESS = """
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

ServeSubcommand.cmd(make_arg_parser(FlexibleArgumentParser()).parse_args())
"""


def start_headless(folder, environment, *arguments):
    """A process of a further node's engines, as `vllm serve --headless` starts them."""
    command = [sys.executable, "-c", _HEADLESS, "--model", str(folder), "--headless"]
    return _process([*command, *SMALL, *arguments], environment)


def start_keel(floors, port, environment, *options, arguments=()):
    """A process of `keel serve`."""
    command = [sys.executable, "-m", "keel", "serve", str(floors), *options, "--"]
    return _process([*command, *_listening(port), *SMALL, *arguments], environment)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _listening(port):
    return ("--host", "127.0.0.1", "--port", str(port))


def _process(command, environment):
    env = _base_environment()
    said = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(command, env={**env, **environment}, stdout=said, stderr=said)
    process.said = said
    return process


def _base_environment():
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    env.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    return env


@contextmanager
def running_server(process, port):
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(60)
        process.said.close()


_STARTER = """
import json, os, sys
from vllm.entrypoints.launchers.api_server.entry import main

for line in sys.stdin:
    arguments, environment, output = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["/bin/vllm", *arguments]  # by which Keel knows a server
        main()
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def server_starter():
    """Starts servers that end by themselves, each forked from a process that has imported vLLM.

    The import is most of such a start. Plugins are loaded behind the fork, under the environment
    given: `starts(folder, environment, output, *arguments)` is the exit status.
    """
    command = [sys.executable, "-W", "ignore", "-c", _STARTER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_base_environment()
    ) as process:

        def starts(folder, environment, output, *arguments):
            given = ["--model", str(folder), *_listening(1), *SMALL, *arguments]
            environment = {**_base_environment(), **environment}
            process.stdin.write(json.dumps([given, environment, str(output)]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield starts
        process.stdin.close()


def said_by(process):
    """Everything that a server printed."""
    process.said.seek(0)
    return process.said.read().decode()


def ended(process):
    """What a server said until it ended by itself, with an error."""
    try:
        process.wait(400)
    finally:
        process.kill()
    assert process.returncode not in (0, -9)
    with process.said:
        return said_by(process)


def wait_for(url, process, seconds=540):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if process.poll() is not None:
            pytest.fail(said_by(process)[-3000:])
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the server did not come up: " + said_by(process)[-3000:])


def post(url, path, body, **headers):
    """(status, headers, JSON) of a request; the text of an answer that is none."""
    request = urllib.request.Request(
        f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            raw = reply.read().decode()
            is_json = reply.headers.get("content-type", "").startswith("application/json")
            return reply.status, reply.headers, json.loads(raw) if is_json else raw
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read() or b"{}")


def get(url, path):
    """The JSON at a path."""
    with urllib.request.urlopen(f"{url}{path}", timeout=60) as reply:
        return json.load(reply)
