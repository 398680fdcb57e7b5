"""The vLLM plugin: the one place where Keel changes what is not its own.

vLLM calls `register` in each of its processes. Without a deployment in vLLM's config, and without
`KEEL_FLOORS`, every wrapper below hands on to vLLM untouched.

front (API server)  configures the engine, refuses requests for unknown settings
engine core         registers settings, salts the prefix cache, tests itself before it serves
worker              holds the layers, tells them whose tokens each step computes
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from keel.engines.vllm.deployment import Asked, Deployment
from keel.errors import UsageError

_DONE = "_keel_is_registered"


def register() -> None:
    """Wrap vLLM's seams in this process; once, however often it is called."""
    import vllm.v1.engine.core as core
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker import gpu_worker, worker_base

    if getattr(core, _DONE, False):
        return
    setattr(core, _DONE, True)
    _wrap(EngineArgs, "create_engine_config", _configure)
    _wrap(InputProcessor, "_validate_params", _refuse_unknown)
    _wrap(core.EngineCore, "__init__", _start_core)
    _wrap(core.EngineCore, "_initialize_kv_caches", _remember)
    core.enable_envs_cache = _begin_at_last(core.enable_envs_cache)
    _wrap(core.EngineCore, "preprocess_add_request", _salt)
    _wrap(core.EngineCore, "collective_rpc", _listen)
    _wrap(core.EngineCore, "post_step", _look_after)
    _wrap(core.EngineCoreProc, "run_busy_loop", _test_first)
    _wrap(gpu_worker.Worker, "load_model", _hold_model)
    worker_base.WorkerBase.keel_call = _keel_call


Wrapper = Callable[..., Any]


def _wrap(owner: Any, name: str, wrapper: Wrapper) -> None:
    """Replace a method by `wrapper(original, self, ...)`."""
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(original, self, *args, **kwargs)

    setattr(owner, name, wrapped)


def _deployment(vllm_config: Any) -> Deployment | None:
    return Deployment.from_config(vllm_config.additional_config)


def _configure(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    """Put the deployment that the environment asks for into the engine's config."""
    from keel.engines.vllm.serving import deployment_for, refuse_unfit
    from keel.engines.vllm.versions import check_version

    asked = Asked.of()
    if asked is not None and Deployment.from_config(self.additional_config) is None:
        own = self.additional_config or {}
        self.additional_config = {**own, "keel": deployment_for(asked).to_config()}
    config = original(self, *args, **kwargs)
    deployment = _deployment(config)
    if deployment is not None:
        check_version()
        refuse_unfit(config, deployment)
    return config


def _refuse_unknown(original: Wrapper, self: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
    """Refuse at the door what names a setting that is not there."""
    from vllm.exceptions import VLLMValidationError

    from keel.engines.vllm.serving import check_request

    deployment = _deployment(self.vllm_config)
    arguments = getattr(params, "extra_args", None) or {}
    try:
        check_request(arguments, deployment)
    except UsageError as error:  # as what vLLM's server answers with status 400
        raise VLLMValidationError(str(error), parameter="keel") from error
    return original(self, params, *args, **kwargs)


def _start_core(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> None:
    original(self, *args, **kwargs)
    _begin(self)


_starting: list[Any] = []
"""The engine core whose `__init__` runs in this process."""


def _remember(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    _starting[:] = [self]
    return original(self, *args, **kwargs)


def _begin_at_last(original: Wrapper) -> Wrapper:
    """A spawned process learns of the plugin inside `EngineCore.__init__`, too late to wrap that;
    this is the last call that it makes there, before it reports that it is ready."""

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        while _starting:
            _begin(_starting.pop())
        return found

    return wrapped


def _test_first(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    # Should vLLM's last call be another one day: nobody was answered yet.
    _begin(self)
    return original(self, *args, **kwargs)


def _begin(core: Any) -> None:
    """Register the settings and test the engine, once, before it answers anyone."""
    deployment = _deployment(core.vllm_config)
    if deployment is None or hasattr(core, "keel"):
        return
    from keel.engines.vllm.core import CoreHold

    core.keel = CoreHold(core, deployment)
    core.keel.start(Asked.of())


def _salt(original: Wrapper, self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Keys and values of one setting never serve another; no client can forget it here."""
    keel = getattr(self, "keel", None)
    if keel is not None:
        keel.admit(request)
    return original(self, request, *args, **kwargs)


def _listen(original: Wrapper, self: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
    """Learn of settings that are registered while the engine runs."""
    found = original(self, method, *args, **kwargs)
    keel = getattr(self, "keel", None)
    if keel is not None and method == "keel_call":
        keel.overhear(args, kwargs)
    return found


def _look_after(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    found = original(self, *args, **kwargs)
    keel = getattr(self, "keel", None)
    if keel is not None:
        keel.watch()
    return found


def _hold_model(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    """Hold the layers as soon as the model is loaded, before anything is traced."""
    found = original(self, *args, **kwargs)
    deployment = _deployment(self.vllm_config)
    if deployment is not None:
        from keel.engines.vllm.runners import hold_runner

        self.keel_hold = hold_runner(self.model_runner, deployment)
    return found


def _keel_call(self: Any, method: str, *args: Any) -> Any:
    """What the engine asks of each worker: a public method of `Hold`."""
    from keel.engines.vllm.hold import ASKED

    hold = getattr(self, "keel_hold", None)
    if hold is None:
        raise RuntimeError("this worker holds nothing: the Keel plugin was not there at its start")
    if method not in ASKED:
        raise ValueError(f"unknown request {method!r}, expected one of {', '.join(sorted(ASKED))}")
    return getattr(hold, method)(*args)
