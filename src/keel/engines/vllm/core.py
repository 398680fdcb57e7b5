"""Keel in vLLM's engine core: registered settings, a cache salt per setting, and the self-test.

No request is served before the self-test has passed: it sends requests of its own through the
scheduler and the real execution paths, and looks at what they did.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from keel.engines.vllm.deployment import KEY, OFF, Deployment, ServeEnvironment
from keel.engines.vllm.packing import PackedInterventions
from keel.errors import NotAppliedError, UsageError
from keel.geometry import unit
from keel.types import Floor

SCRATCH = "keel-self-test"
_HUGE = 1e4
"""Floor of the self-test in raw units; a token above it would make a sound engine refuse."""
_PROMPT_TOKENS, _NEW_TOKENS = 24, 4


class CoreState:
    """Settings registered with one engine core, and when it was tested last."""

    def __init__(self, core: Any, deployment: Deployment) -> None:
        self.core, self.deployment = core, deployment
        self.settings: dict[str, PackedInterventions] = {}
        self.canary_s = 0.0
        self.next_canary = float("inf")
        self.tests = 0
        self.is_testing = False

    def start(self, environment: ServeEnvironment | None) -> None:
        """Test the engine, then register the settings that the environment names.

        Raises NotAppliedError where the test fails: the engine does not start.
        """
        self.self_test()
        if environment is not None:
            from keel.engines.vllm.serving import default_of, settings_of

            settings = settings_of(environment)
            names = [default_of(environment)] if self.deployment.is_global else list(settings)
            for name in names:
                self.register(PackedInterventions.of(name, settings[name]))
            self.canary_s = environment.canary_s
            if self.canary_s:
                self.next_canary = time.monotonic() + self.canary_s

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
        """Give a request the cache salt of its setting.

        Raises UsageError for a setting that is not there.
        """
        parameters = request.sampling_params
        arguments = (parameters.extra_args if parameters is not None else None) or {}
        name = arguments.get(KEY, self.deployment.default)
        if self.deployment.is_global and SCRATCH not in self.settings:
            name = self.deployment.default
        if name == OFF or (name == self.deployment.default and not self.settings):
            setting = PackedInterventions.none(OFF)
        elif name in self.settings:
            setting = self.settings[name]
        else:
            raise UsageError(f"setting {name!r} is not registered; there are {list(self.settings)}")
        request.cache_salt = setting.salt(request.cache_salt)

    def run_canary_if_due(self) -> None:
        """Check every setting's firing, and test the engine if it is idle; called between steps.

        Raises NotAppliedError when a layer was passed by, and the engine ends.
        """
        if self.is_testing or time.monotonic() < self.next_canary:
            return
        self.next_canary = time.monotonic() + self.canary_s
        for name in self.settings:
            self._call_workers("firing", name)
        if not self.deployment.is_global and not self.core.scheduler.has_unfinished_requests():
            self.self_test()

    def self_test(self) -> None:
        """Run a request unsteered, under a huge floor at every steered layer, and unsteered again.

        The floor must move every token at every layer, change what is predicted, and leave no
        trace. Raises NotAppliedError.
        """
        self.is_testing = True
        try:
            self.tests += 1
            before = self._answer(OFF)
            self.register(self._huge_floors())
            steered = self._answer(SCRATCH)
            for firing in self._call_workers("firing", SCRATCH):
                for layer, (seen, fired) in firing.items():
                    if not seen or fired != seen:
                        raise NotAppliedError(
                            f"self-test: layer {layer} moved {fired} of {seen} tokens to a floor "
                            "that all are under; this engine would serve uncapped, and does not "
                            "start"
                        )
            self.register(PackedInterventions.none(SCRATCH))
            after = self._answer(OFF)
        finally:
            self.is_testing = False
        if steered == before:
            raise NotAppliedError(
                "self-test: a floor far above every token changed nothing that the model "
                "predicts; this engine would serve uncapped, and does not start"
            )
        if after != before:
            raise NotAppliedError(
                "self-test: an unsteered request after a steered one is not what it was before; "
                "this engine would mix settings, and does not start"
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
            [Floor(n, unit(torch.randn(hidden, generator=draws)), _HUGE) for n in layers],
        )

    def _answer(self, name: str) -> list[Any]:
        """Greedy tokens with their log-probabilities, of one request through the engine's steps."""
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        vocabulary = int(self.core.vllm_config.model_config.get_vocab_size())
        prompt = [3 + (7 * n) % max(vocabulary - 3, 1) for n in range(_PROMPT_TOKENS)]
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=_NEW_TOKENS,
            ignore_eos=True,
            logprobs=1,
            skip_reading_prefix_cache=True,
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
            cache_salt=f"{SCRATCH}-{time.monotonic_ns()}",
            data_parallel_rank=None,
        )
        core, predicted = self.core, list[Any]()
        core.add_request(*core.preprocess_add_request(request))
        while core.scheduler.has_requests():
            outputs, executed = core.step_fn()
            core.post_step(executed)
            for group in (outputs or {}).values():
                for output in group.outputs:
                    if output.request_id == request.request_id:
                        predicted += list(output.new_token_ids)
                        if output.new_logprobs is not None:
                            predicted += output.new_logprobs.logprobs.tolist()
        return predicted
