"""Keel in vLLM's engine core: registered settings, a cache salt per setting, and the self-test.

No request is served before the self-test has passed: it sends requests of its own through the
scheduler and the real execution paths, and looks at what they did.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from keel.engines.vllm.deployment import KEY, OFF, SCRATCH, Deployment, ServeEnvironment
from keel.engines.vllm.live import named_change
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.watching import packed_direction
from keel.errors import ModelLayoutError, NotAppliedError, NotFiniteError, UsageError
from keel.geometry import unit
from keel.types import Floor

_HUGE = 10.0
"""Floor of the self-test, in lengths of the model's longest stream: no token may be above it."""
_APART = 0.05
"""Relative distance from which two streams that must be the same are not."""
_SHOWN = 0.25
"""Share of a plain push from which a change that must not show does: sound models stay under 1e-4
in float32 and 0.02 in bfloat16, others come to 1."""
_PROMPT_TOKENS, _NEW_TOKENS = 24, 4
_PATIENCE_S = 60.0
"""How long the self-test's request may wait beside others."""


class CoreState:
    """Settings registered with one engine core, and when it was tested last."""

    def __init__(self, core: Any, deployment: Deployment) -> None:
        self.core, self.deployment = core, deployment
        self.settings: dict[str, PackedInterventions] = {}
        self.canary_s = 0.0
        self.next_canary = float("inf")
        self.tests = 0
        self.is_testing = False
        self.admitting = threading.Lock()
        """Requests are admitted by another thread than the one that steps."""
        self.admitted: dict[str, str] = {}
        """Settings by the requests under them that were admitted and not handed over yet."""
        self.tested = -math.inf
        """When the engine last passed a test, on the clock that only goes forward."""
        self.requests = Counter[str]()
        """Requests so far, by setting."""
        self.height = 0.0
        """Floor that the self-test holds every token to; known once the streams were looked at."""

    def start(self, environment: ServeEnvironment | None) -> None:
        """Test the engine, then register the settings that the environment names.

        Raises NotAppliedError where the test fails, ModelLayoutError for layers whose streams are
        not what Keel takes them for, and NotFiniteError for a model that gives NaN: the engine
        does not start.
        """
        with self.testing():
            self.check_streams()
        self.self_test()
        if self.core.vllm_config.kv_transfer_config is not None and not self.deployment.is_global:
            self.check_isolation()
        if environment is not None:
            from keel.engines.vllm.serving import fitting_alarm, held_settings

            for name, floors in held_settings(environment).items():
                self.register(PackedInterventions.of(name, floors))
            alarm = fitting_alarm(environment)
            if alarm is not None and self.deployment.watched_layer is not None:
                self._call_workers("watch", packed_direction(alarm.direction))
            self.canary_s = environment.canary_s
            if self.canary_s:
                self.next_canary = time.monotonic() + self.canary_s
                self.wake_for_canary()

    def wake_for_canary(self) -> None:
        """Make an engine that waits for work look up whenever its canary is due.

        Not among engines that step together: one of them alone would wait for the others.
        """
        waiting = getattr(self.core, "input_queue", None)
        if waiting is None or self.core.vllm_config.parallel_config.data_parallel_size > 1:
            return
        from vllm.v1.engine import EngineCoreRequestType

        def wake() -> None:
            pause = threading.Event()
            while not pause.wait(self.canary_s):
                waiting.put_nowait((EngineCoreRequestType.WAKEUP, None))

        threading.Thread(target=wake, name="keel-canary", daemon=True).start()

    def register(self, setting: PackedInterventions) -> None:
        """Register a setting in every worker."""
        self._call_workers("register", setting.name, setting.to_bytes())

    def note_registration(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note a registration that was just sent to the workers, given the call's arguments."""
        call = kwargs.get("args") or (args[1] if len(args) > 1 else ())
        if call and call[0] == "register":
            setting = PackedInterventions.from_bytes(call[1], call[2])
            if setting:
                self.settings[setting.name] = setting
            else:
                self.settings.pop(setting.name, None)

    def admit(self, request: Any) -> None:
        """Give a request the cache salt of its setting, which stays registered until it has ended.

        Raises UsageError for a setting that is not there.
        """
        with self.admitting:
            setting = self._setting_of(request)
            self.admitted[request.request_id] = setting.name
            if not self.is_testing:
                self.requests[named_change(setting.name)[0]] += 1
        request.cache_salt = setting.salt(request.cache_salt)

    def hand_over(self, request_id: str) -> None:
        """Note that the scheduler knows a request, or that it never will."""
        self.admitted.pop(request_id, None)

    def _setting_of(self, request: Any) -> PackedInterventions:
        parameters = request.sampling_params
        arguments = (parameters.extra_args if parameters is not None else None) or {}
        name = arguments.get(KEY, self.deployment.default)
        if self.deployment.is_global and SCRATCH not in self.settings:
            name = self.deployment.default
        if name == OFF or (name == self.deployment.default and not self.settings):
            return PackedInterventions.none(OFF)
        if name in self.settings:
            return self.settings[name]
        raise UsageError(f"setting {name!r} is not registered; there are {list(self.settings)}")

    def run_canary_if_due(self) -> None:
        """Check every setting's firing, and test the engine if it is idle; called between steps.

        Raises NotAppliedError when a layer was passed by, and the engine ends.
        """
        if self.is_testing or time.monotonic() < self.next_canary:
            return
        self.next_canary = time.monotonic() + self.canary_s
        for name in self.settings:
            self.check_firing(name)
        if not self.deployment.is_global and not self.core.scheduler.has_unfinished_requests():
            self.self_test()
        self.tested = time.monotonic()

    def numbers(self, default: str) -> dict[str, Any]:
        """What `metrics.EngineNumbers` takes; `default` is registered for requests without name."""
        firing, fault = dict[str, Any](), ""
        try:
            firing = {name: self.check_firing(name) for name in [*self.settings]}
        except NotAppliedError as error:
            fault = str(error)
        return {
            "default_is_held": default in firing,
            "tested_s_ago": None if self.tested < 0 else time.monotonic() - self.tested,
            "requests": dict(self.requests),
            "firing": firing,
            "fault": fault,
        }

    def check_streams(self) -> None:
        """Try out whether the model reads its layers' outputs as Keel does.

        Each layer's stream must be whole in every process, the last one's must be what is read
        after it, and moving a layer's two outputs against each other must not show.
        """
        looks = self._tried("looked", "look")
        if not all(look.is_finite for look in looks):
            raise NotFiniteError(
                "self-test: the model predicts NaN or Inf, with no setting at work; look at its "
                "weights and its dtype (float16 overflows where bfloat16 does not)"
            )
        self._check_whole([look.marks for look in looks])
        for gap in (look.reader_gap for look in looks if look.reader_gap is not None):
            if not gap <= _APART:
                raise ModelLayoutError(
                    f"self-test: what is read after the last layer is {gap:.2g} of its length away "
                    "from the stream that the layer returns; this model is not supported under vLLM"
                )
        for kind in sorted(set().union(*(look.pairs for look in looks))):
            self._check_pair(kind)
        self.height = _HUGE * max(norm for look in looks for norm in look.norms.values())

    def _check_whole(self, marks: Sequence[Mapping[int, Sequence[float]]]) -> None:
        """Refuse layers that are not the same in all processes that hold them."""
        for layer in set().union(*marks):
            seen = torch.tensor([mark[layer] for mark in marks if layer in mark])
            if not (seen - seen[0]).norm(dim=-1).max() <= _APART * seen[0].norm():
                raise ModelLayoutError(
                    f"self-test: {len(seen)} processes hold parts of layer {layer}'s stream, which "
                    "this model adds up in the next layer; run it with tensor_parallel_size=1, or "
                    "over several GPUs with pipeline_parallel_size"
                )

    def _check_pair(self, kind: str) -> None:
        """Refuse layers of which the model reads another part than Keel takes for the stream."""
        pushed = self._tried("moved", "push", kind)
        gauged = self._tried("moved", "gauge", kind)
        if not max(pushed) > 0:
            raise NotAppliedError(
                f"self-test: what was added to the output of all {kind}s changed nothing that the "
                "model predicts; this engine would serve uncapped, and does not start"
            )
        shown = max(gauge / push for gauge, push in zip(gauged, pushed, strict=True) if push)
        if not shown <= _SHOWN:
            raise ModelLayoutError(
                f"self-test: of {kind}'s two outputs the model reads another part than Keel takes "
                f"for the residual stream (what must not show does, {shown:.2g} of a plain push); "
                "this model is not supported under vLLM: use the transformers engine"
            )

    def _tried(self, result: str, *trial: str) -> list[Any]:
        """What each worker says of one prompt that is read under a trial: see `StreamTrials`."""
        self._call_workers(*trial)
        self.answer(OFF, new_tokens=1)
        return self._call_workers(result)

    @contextmanager
    def testing(self) -> Iterator[None]:
        """Keeps the canary, which is due between steps, out of a test's own steps."""
        self.is_testing = True
        self.tests += 1
        try:
            yield
        finally:
            self.is_testing = False

    def self_test(self) -> None:
        """Run a request unsteered, under a huge floor at every steered layer, and unsteered again.

        The floor must move every token at every layer, change what is predicted, and leave no
        trace. Raises NotAppliedError.
        """
        with self.testing():
            is_alone = not self.core.scheduler.has_unfinished_requests()
            before = self.answer(OFF)
            self.register(self._huge_floors())
            steered = self.answer(SCRATCH)
            self.check_moved(SCRATCH)
            self.register(PackedInterventions.none(SCRATCH))
            after = self.answer(OFF)
        if steered == before:
            raise NotAppliedError(
                "self-test: a floor far above every token changed nothing that the model "
                "predicts; this engine would serve uncapped, and does not start"
            )
        # Beside others it may run in batches of other shapes, which round otherwise.
        if is_alone and after != before:
            raise NotAppliedError(
                "self-test: an unsteered request after a steered one is not what it was before; "
                "this engine would mix settings, and does not start"
            )
        self.tested = time.monotonic()

    def check_moved(self, name: str, layers: Sequence[int] | None = None) -> None:
        """See that a setting above all tokens moved each, at these layers. Raises NotAppliedError.

        Without layers at all that are held.
        """
        for firing in self.check_firing(name):
            for layer, (seen, fired) in firing.items():
                if (layers is None or layer in layers) and (not seen or fired != seen):
                    raise NotAppliedError(
                        f"self-test: layer {layer} moved {fired} of {seen} tokens to a floor that "
                        "all are under; this engine would serve uncapped, and does not start"
                    )

    def check_firing(self, name: str) -> list[dict[int, tuple[int, int]]]:
        """How often a setting fired, by worker. Raises where a layer was passed by."""
        return self._call_workers("firing", name)

    def check_isolation(self) -> None:
        """Test that a KV connector gives no request what was computed under another setting.

        A prompt of several blocks is read unsteered, then under a huge floor, then unsteered again
        with the same salt and what was cached. Raises NotAppliedError.
        """
        config = self.core.vllm_config
        room = int(config.model_config.max_model_len) - _NEW_TOKENS - 1
        tokens = min(4 * int(config.cache_config.block_size), room)
        with self.testing():
            before = self.answer(OFF, prompt_tokens=tokens)
            salt = f"{SCRATCH}-shared-{time.monotonic_ns()}"
            self.register(self._huge_floors())
            self.answer(SCRATCH, prompt_tokens=tokens, salt=salt)
            firing = self._call_workers("firing", SCRATCH)
            self.register(PackedInterventions.none(SCRATCH))
            self.core.reset_prefix_cache()  # so that only the connector could still have it
            after = self.answer(OFF, prompt_tokens=tokens, salt=salt)
        # Under a floor that is new, no token can be cached: each must have passed the layers.
        is_fresh = all(seen >= tokens for worker in firing for seen, _ in worker.values())
        if after != before or not is_fresh:
            raise NotAppliedError(
                f"self-test: {config.kv_transfer_config.kv_connector} gave a request keys and "
                "values that were computed under another setting; this engine would mix settings, "
                "and does not start"
            )

    def _call_workers(self, method: str, *arguments: Any) -> list[Any]:
        return list(self.core.collective_rpc("keel_call", None, (method, *arguments)))

    def _huge_floors(self) -> PackedInterventions:
        """The self-test's setting: a floor at every layer that every token is under."""
        draws = torch.Generator().manual_seed(0)
        config = self.core.vllm_config.model_config
        hidden = int(config.get_hidden_size())
        layers = self.deployment.layers
        if layers is None:
            layers = tuple(range(int(config.get_total_num_hidden_layers())))
        return PackedInterventions.of(
            SCRATCH,
            [Floor(n, unit(torch.randn(hidden, generator=draws)), self.height) for n in layers],
        )

    def answer(
        self,
        name: str,
        *,
        new_tokens: int = _NEW_TOKENS,
        prompt_tokens: int = _PROMPT_TOKENS,
        salt: str | None = None,
    ) -> list[Any]:
        """Greedy tokens with their log-probabilities, of one request through the engine's steps.

        With a salt it takes from caches what others with that salt have left there. What other
        requests get in these steps goes where it would. Raises NotAppliedError where the engine is
        too busy, or paused, to answer.
        """
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        vocabulary = int(self.core.vllm_config.model_config.get_vocab_size())
        prompt = [3 + (7 * n) % max(vocabulary - 3, 1) for n in range(prompt_tokens)]
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=new_tokens,
            ignore_eos=True,
            logprobs=1,
            skip_reading_prefix_cache=salt is None,
            extra_args={KEY: name},
        )
        request = EngineCoreRequest(
            request_id=f"{SCRATCH}-{self.tests}-{name}-{time.monotonic_ns()}",
            prompt_token_ids=prompt,
            mm_features=None,
            sampling_params=parameters,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=salt or f"{SCRATCH}-{time.monotonic_ns()}",
            data_parallel_rank=None,
        )
        core, predicted = self.core, list[Any]()
        is_alone = not core.scheduler.has_unfinished_requests()
        ends = math.inf if is_alone else time.monotonic() + _PATIENCE_S
        core.add_request(*core.preprocess_add_request(request))
        is_finished = False
        while core.scheduler.has_requests() and (is_alone or not is_finished):
            if time.monotonic() > ends:
                core.abort_requests([request.request_id])
                raise NotAppliedError(
                    f"self-test: the engine had no room for its request in {_PATIENCE_S:.0f} s; "
                    "try again when it is less busy"
                )
            outputs, executed = core.step_fn()
            for client, group in (outputs or {}).items():
                own = [each for each in group.outputs if each.request_id == request.request_id]
                for output in own:
                    predicted += list(output.new_token_ids)
                    if output.new_logprobs is not None:
                        predicted += output.new_logprobs.logprobs.tolist()
                    is_finished |= output.finish_reason is not None
                if not is_alone:
                    group.outputs = [each for each in group.outputs if each not in own]
                    core.output_queue.put_nowait((client, group))
            core.post_step(executed)
        return predicted
