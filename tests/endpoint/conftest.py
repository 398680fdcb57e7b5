"""What is set on this machine has no part in these tests."""

import threading

import pytest


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture(autouse=True)
def _no_thread_stays():
    yield
    left = [thread for thread in threading.enumerate() if thread.name.startswith("keel-endpoint")]
    assert not left, "a judge's thread outlived its iterator"
