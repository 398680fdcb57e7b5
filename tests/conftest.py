"""Shapes and types of every public signature are checked while tests run."""

from jaxtyping import install_import_hook

import tests.typechecking  # noqa: F401  (found by its name, below)

install_import_hook("keel", "tests.typechecking.checked")

import signal  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

# A shell without a terminal starts background jobs deaf to Ctrl-C, which their children inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Long tests first: with several lanes, one that comes last leaves the others idle."""
    items.sort(key=lambda item: item.get_closest_marker("real") is None)
    for item in items:
        family = item.callspec.params.get("family") if hasattr(item, "callspec") else None
        if family in ("hy_v4", "glm5_next", "qwen4_exp"):
            from tests.releases import lack_of  # loads transformers, which not every run needs

            if lack := lack_of(family):
                item.add_marker(pytest.mark.skip(lack))


def pytest_runtest_setup(item):
    """Where there is no CUDA device, what needs one is skipped."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _own_random_state():
    """Each test draws from its own seeded stream."""
    torch.manual_seed(0)
