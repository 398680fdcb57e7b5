"""Shapes and types of every public signature are checked while tests run."""

from jaxtyping import install_import_hook

import tests.typechecking  # noqa: F401  (found by its name, below)

install_import_hook("keel", "tests.typechecking.checked")

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def _own_random_state():
    """Each test draws from its own seeded stream."""
    torch.manual_seed(0)
