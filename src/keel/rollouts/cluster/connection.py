"""Connects to a Ray cluster within seconds, or raises an error of one line."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keel.errors import ClusterError, MissingExtraError, UsageError

_PATIENCE_S = 10.0
_SETTINGS = b"\x04"
"""Kind of the frame with which both sides of HTTP/2 begin."""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + b"\0\0\0\0\0"
_WORDS = ("auto", "local")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The `ray` module, connected to `address` while the context lasts.

    A connection that this process already has is used and left open, whatever its address.
    Raises MissingExtraError without Ray, UsageError for a malformed address, ClusterError when no
    cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            "Ray is not installed; pip install 'keel-llm[cluster]', here and on every machine of "
            "the cluster"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    address = _resolved(address)
    _check_address(address)
    try:
        _connect(ray, address)
        yield ray
    finally:
        ray.shutdown()


def _resolved(address: str) -> str:
    """The HOST:PORT that `auto` stands for, to be checked like any other address.

    Ray itself would try a remembered cluster that has died for minutes.
    """
    if address != "auto":
        return address
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:  # not a public function: then Ray has to find out by itself
        return address
    try:
        return str(canonicalize_bootstrap_address(address) or address)
    except (ConnectionError, ValueError) as error:
        none = "this machine belongs to none, and RAY_ADDRESS is not set"
        raise _unreachable(address, none) from error


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    own = {}
    if address == "local":
        own = {"include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    try:
        ray.init(address=address, **quiet, **own)
    except (
        ConnectionError,
        RuntimeError,
        ValueError,
        ray.exceptions.RayError,  # a token that is missing, say
        SystemExit,  # Ray's own word for a cluster that stops answering
    ) as error:
        none = "this machine belongs to none, and RAY_ADDRESS is not set"
        reason = (
            none if address == "auto" else (str(error).splitlines() or [type(error).__name__])[0]
        )
        raise _unreachable(address, reason) from error


def _check_address(address: str) -> None:
    """Refuse an address without a Ray head: Ray would try it for two minutes, then exit."""
    if address in _WORDS:
        return
    if address.startswith("ray://"):
        raise UsageError(
            f"address is {address!r}, a Ray Client's, which Keel does not speak; run keel on a "
            "machine of the cluster (or through `ray job submit`), with --cluster auto"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"address is {address!r}, expected HOST:PORT, auto or local")
    try:
        with socket.create_connection((host, int(port)), timeout=_PATIENCE_S) as connection:
            speaks = "RAY_USE_TLS" in os.environ or _speaks_http2(connection)
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error
    if not speaks:
        raise _unreachable(address, "what listens there is not Ray's head (port 6379 by default)")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether the server speaks HTTP/2, as gRPC and so Ray's head does (RFC 9113, section 3.4)."""
    connection.sendall(_HELLO)
    return connection.recv(9)[3:4] == _SETTINGS


def _unreachable(address: str, reason: str) -> ClusterError:
    return ClusterError(
        f"no Ray cluster answers at {address!r}: {reason.rstrip('.')}; start one with "
        "`ray start --head`, and give the HOST:PORT that it prints, or auto on its machines"
    )
