"""The residual stream of models that have several, written plainly, a line for each family."""

from typing import Any

from torch import Tensor


def residual_stream(model: Any, hidden: Tensor) -> Tensor:
    """[row, token, hidden] in what a decoder block of this model returns.

    DeepSeek V4, Hunyuan V4 and GLM-5-Next return [row, token, stream, hidden]; Qwen4-Exp the
    streams side by side, [row, token, stream × hidden]; Gemma 3n [stream, row, token, hidden], of
    which its blocks compute on the first.
    """
    config = model.config.get_text_config()
    match config.model_type:
        case "deepseek_v4" | "hy_v4" | "glm5_next_text":
            return sum(hidden[:, :, stream] for stream in range(config.hc_mult)) / config.hc_mult
        case "qwen4_exp_text":
            width, count = config.hidden_size, config.hc_count
            parts = [hidden[..., n * width : (n + 1) * width] for n in range(count)]
            return sum(parts) / count
        case "gemma3n_text":
            return hidden[0]
    return hidden


def moved(model: Any, hidden: Tensor, move: Tensor) -> Tensor:
    """What a block returns when its residual stream is moved by `move` [row, token, hidden]."""
    config = model.config.get_text_config()
    match config.model_type:
        case "deepseek_v4" | "hy_v4" | "glm5_next_text":
            return hidden + move[:, :, None]
        case "qwen4_exp_text":
            return hidden + move.repeat(1, 1, config.hc_count)
        case "gemma3n_text":
            hidden = hidden.clone()
            hidden[0] += move
            return hidden
    return hidden + move
