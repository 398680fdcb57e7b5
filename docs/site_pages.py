"""What the docs' site has beyond the pages of docs/: an API reference, the repository's own pages.

mkdocs runs this as a hook (`make site`). Pages that are made here are on no disk. A link to a
file that the site does not hold becomes the file's name.
"""

from __future__ import annotations

import importlib
import json
import os.path
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "LOG.md", "SECURITY.md")
API = (
    *("keel", "keel.engines", "keel.steering", "keel.geometry", "keel.types", "keel.store"),
    *("keel.prompts", "keel.rollouts", "keel.judge", "keel.personas", "keel.calibrate"),
    *("keel.drift", "keel.alarm", "keel.evaluate", "keel.studies", "keel.compare", "keel.report"),
    *("keel.pipeline", "keel.serve", "keel.statistics", "keel.errors", "keel.testing"),
)
"""Packages and modules that are written for others to use, by their front doors."""

_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Puts the pages that are made here at the end of the navigation."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    sections = {name: pages for section in config.nav for name, pages in section.items()}
    sections["How it works"].append(
        {
            "Decisions": [
                f"decisions/{page.name}" for page in (ROOT / "docs/decisions/README.md", *decisions)
            ]
        }
    )
    sections["Reference"].append({"API": [{name: _api_uri(name)} for name in API]})
    config.nav.append({"Project": [f"project/{name}" for name in ROOT_PAGES]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the API reference, the repository's own pages, and notebooks as pages."""
    for name in API:
        files.append(File.generated(config, _api_uri(name), content=_api_page(name)))
    for name in ROOT_PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, f"project/{name}", content=text))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        uri = notebook.src_uri.replace(".ipynb", ".md")
        files.append(
            File.generated(config, uri, content=_notebook_page(Path(notebook.abs_src_path)))
        )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links to where their targets stand on the site."""
    here = page.file.src_uri
    parts = _BLOCK.split(markdown)
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda link: _on_site(link, here), part)
        for part in parts
    )


def _api_uri(name: str) -> str:
    return f"api/{name}.md"


def _api_page(name: str) -> str:
    """A page with the public names of a module, each with signature and docstring."""
    members = _public_names(name)
    options = "" if members is None else f"\n    options:\n      members: {json.dumps(members)}"
    return f"# {name}\n\n::: {name}{options}\n"


def _public_names(name: str) -> list[str] | None:
    """What `__all__` lists; None for a module that has none and shows all its public names."""
    module = importlib.import_module(name)
    members = getattr(module, "__all__", None)
    hidden = ("__version__", "geometry") if name == "keel" else ()
    return None if members is None else [member for member in members if member not in hidden]


def _notebook_page(path: Path) -> str:
    """The cells of a notebook as Markdown, with a link to the notebook itself."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in texts]
    return "\n\n".join([*parts, f"[This page as a notebook]({path.name})", ""])


def _on_site(link: re.Match[str], here: str) -> str:
    """The link from a page of the site, its target named in the repository's terms."""
    text, target = link.groups()
    path, mark, anchor = target.partition("#")
    if "://" in target or not path:
        return link[0]
    origin = posixpath.basename(here) if here.startswith("project/") else f"docs/{here}"
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if wanted in ROOT_PAGES:
        uri = f"project/{wanted}"
    elif wanted.startswith("docs/") and not wanted.endswith(".py") and (ROOT / wanted).is_file():
        uri = wanted.removeprefix("docs/")
    elif wanted == "docs" or wanted.startswith(os.pardir):
        return link[0]
    else:
        return f"{text} (`{wanted}`)" if wanted not in text else text
    return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(here))}{mark}{anchor})"
