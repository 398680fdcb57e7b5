"""How large the house is, room by room: `python -m benchmarks.house [SOURCE]`.

Lines, modules, classes, functions, and private functions that their own file calls once: those
are often detours. Counted from the text alone; nothing is imported.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from pathlib import Path

COLUMNS = ("lines", "modules", "classes", "functions", "called once")


def count_module(path: Path) -> Counter[str]:
    """What one file holds, by the names of the columns."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    uses = uses_of(tree)
    counts = Counter({"lines": len(text.splitlines()), "modules": 1})
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            counts["classes"] += 1
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            counts["functions"] += 1
            counts["called once"] += is_private(node.name) and uses[node.name] == 1
    return counts


def uses_of(tree: ast.AST) -> Counter[str]:
    """How often each name is read in a file, by itself or as an attribute."""
    uses: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            uses[node.id] += 1
        elif isinstance(node, ast.Attribute):
            uses[node.attr] += 1
    return uses


def is_private(name: str) -> bool:
    """Whether a function is of its file's or class's own."""
    return name.startswith("_") and not name.startswith("__")


def main(source: Path) -> None:
    """Print a row for each room, and the sum of them."""
    rooms: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted(source.rglob("*.py")):
        rooms[path.relative_to(source).parts[0]] += count_module(path)
    total = sum(rooms.values(), Counter())
    print(f"{'room':<16}" + "".join(f"{column:>12}" for column in COLUMNS))
    for room, counts in [*sorted(rooms.items()), ("total", total)]:
        print(f"{room:<16}" + "".join(f"{counts[column]:>12,}" for column in COLUMNS))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "src/keel"))
