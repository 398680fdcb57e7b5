"""A folder to upload to a model hub: axis, floors, and a card that says how to use them.

`keel.load_axis` and `keel.load_floors` read it by path or, uploaded, by its id.
"""

from __future__ import annotations

from pathlib import Path

from keel.errors import UsageError
from keel.store.artefacts import save_axis
from keel.store.files import write_bytes
from keel.store.floors import save_floors
from keel.store.run import Run

_TEXT = """
# Assistant Axis of {model}

Made with [Keel](https://pypi.org/project/keel-llm/) {version} by the method of Lu et al. 2026
([arXiv:2601.10387](https://arxiv.org/abs/2601.10387)): at every layer, the mean activation of the
model's default answers minus the mean of its role vectors. Positive is towards the Assistant.
Layers are decoder blocks counted from 0, and always the block's output.

| | |
|---|---|
| model | `{model}`{revision} |
| layers × hidden size | {layers} × {hidden_size} |
| layer to read and steer at | {layer} |
| gap between default and role mean there | {gap:.4g} |
| mean norm of the residual stream there | {norm:.4g} |
| settings to cap with | {settings} |

```python
import keel

axis = keel.load_axis("{folder}")  # this folder, or its id on the hub
```
{capping}
The files are refused on any other model: shape, weights and chat template are compared.
"""

_CAPPING = """
```python
floors = keel.load_floors("{folder}")
with keel.steered(model, floors):
    model.generate(**inputs)
```
"""


def export_hub_folder(run: Run, folder: str | Path) -> None:
    """Write `axis.safetensors`, `floors.safetensors` where there are any, and `README.md`.

    Raises UsageError where the folder holds anything already.
    """
    from huggingface_hub import ModelCardData

    from keel import __version__

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not empty; choose a new folder with -o")
    axis, identity = run.axis, run.identity
    settings = run.settings if run.has_calibration else ()
    is_hub_id = not Path(identity.model_id).exists() and "/" in identity.model_id
    about = ModelCardData(
        base_model=identity.model_id if is_hub_id else None,
        library_name="keel",
        tags=["activation-steering", "assistant-axis", "persona-vectors"],
    )
    text = _TEXT.format(
        model=identity.model_id,
        revision=f" at revision `{identity.revision}`" if identity.revision else "",
        version=__version__,
        layers=identity.layers,
        hidden_size=identity.hidden_size,
        layer=axis.layer,
        gap=float(axis.gap[axis.layer]),
        norm=float(axis.residual_norm[axis.layer]),
        settings=", ".join(f"`{name}`" for name in settings) or "none yet",
        folder=folder.name,
        capping=_CAPPING.format(folder=folder.name) if settings else "",
    )
    save_axis(axis, folder / "axis.safetensors")
    if settings:
        file = run.floors_file
        save_floors(file.settings, folder / "floors.safetensors", default=run.floors.name)
    write_bytes(folder / "README.md", f"---\n{about.to_yaml()}\n---\n{text}".encode())
