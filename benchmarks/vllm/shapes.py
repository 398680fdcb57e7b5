"""Shapes of models that are measured with dummy weights, and whether there is room for them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import NotMeasuredError

_GB = 1e9
_GRAPHS_GB = 3.0
"""CUDA graphs and work space of one engine, beside weights and cache."""
_LOADED_TOKENS = 34_000
"""Most tokens that a load keeps in the cache at once, and a few."""


@dataclass(frozen=True)
class Load:
    """Requests that are sent at once: so many, of so many tokens, to be answered with so many."""

    name: str
    requests: int
    prompt: int
    new: int


LOADS = (
    Load("decode x1", 1, 64, 96),
    Load("decode x32", 32, 64, 96),
    Load("decode x128", 128, 64, 96),
    Load("prefill 16x2048", 16, 2048, 1),
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, and whether it takes a GPU."""

    name: str
    architecture: str
    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    needs_gpu: bool = True

    @property
    def band(self) -> list[int]:
        """Layers that are held: a sixth of them, from a little above the middle."""
        first = int(0.55 * self.layers)
        return list(range(first, min(first + max(2, self.layers // 6), self.layers)))

    @property
    def weights_gb(self) -> float:
        """Weights in bfloat16."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.key_value_heads)
        layer = attention + 3 * self.hidden * self.intermediate
        return 2 * (self.layers * layer + 2 * self.hidden * self.vocabulary) / _GB

    @property
    def engine_gb(self) -> float:
        """What one engine takes: weights, a cache for the largest load, graphs."""
        return self.weights_gb + self.cache_bytes / _GB + _GRAPHS_GB

    @property
    def cache_bytes(self) -> int:
        """Keys and values of the largest load."""
        return _LOADED_TOKENS * 2 * 2 * self.layers * self.key_value_heads * self.head_dim

    def write(self, folder: Path) -> Path:
        """A folder with the config alone: vLLM makes up the weights."""
        config: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "dtype": "bfloat16",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "attention_bias": False,
        }
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder


_LLAMA, _QWEN = ("LlamaForCausalLM", "llama"), ("Qwen3ForCausalLM", "qwen3")
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama-8b", *_LLAMA, 4096, 14336, 32, 32, 8, 128, 128256),
        Shape("qwen3-32b", *_QWEN, 5120, 25600, 64, 64, 8, 128, 151936),
        Shape("tiny", *_LLAMA, 128, 256, 4, 4, 2, 32, 1024, needs_gpu=False),
    )
}


@dataclass(frozen=True)
class Device:
    """What the engines run on."""

    name: str
    total_gb: float
    """The GPU's memory; of a CPU 0, where it is not shared out."""
    free_gb: float

    @classmethod
    def here(cls) -> Device:
        """The first GPU, else the CPU. Asks in another process, which leaves no memory taken."""
        code = (
            "import json, torch\n"
            "if torch.cuda.is_available():\n"
            "    free, total = torch.cuda.mem_get_info()\n"
            "    print(json.dumps([torch.cuda.get_device_name(), total / 1e9, free / 1e9]))\n"
            "else:\n"
            "    print(json.dumps(['cpu', 0.0, 0.0]))\n"
        )
        command = [sys.executable, "-W", "ignore", "-c", code]
        return cls(*json.loads(subprocess.run(command, capture_output=True, check=True).stdout))

    @property
    def is_gpu(self) -> bool:
        """Whether it is one."""
        return self.name != "cpu"

    def engines_at_once(self, shape: Shape, wanted: int) -> int:
        """All of the wanted engines where they fit side by side, else 1, one after the other.

        Raises NotMeasuredError where not even that fits.
        """
        if not self.is_gpu:
            if shape.needs_gpu:
                raise NotMeasuredError(
                    f"{shape.name} takes a GPU of {shape.engine_gb:.0f} GB or more, and torch sees "
                    "none here; --shape tiny runs on a CPU"
                )
            return wanted
        if shape.engine_gb > self.free_gb:
            raise NotMeasuredError(
                f"{shape.name} takes {shape.engine_gb:.0f} GB (weights {shape.weights_gb:.0f}), "
                f"and {self.name} has {self.free_gb:.0f} of {self.total_gb:.0f} GB free; stop what "
                "else runs on it, or take a smaller shape"
            )
        return wanted if wanted * shape.engine_gb <= 0.95 * self.free_gb else 1

    def share(self, shape: Shape) -> float:
        """Share of the memory that one engine may take."""
        return 0.1 if not self.is_gpu else round(shape.engine_gb / self.total_gb + 0.005, 3)
