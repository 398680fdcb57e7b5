"""The house's plan: rooms import from lower floors only, stages never from each other."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.house import is_private, uses_of

SOURCE = Path(__file__).parents[1] / "src" / "keel"

# From the ground up; rooms on one line may not import each other.
FLOORS = [
    {"errors"},
    {"words", "seeds", "registry", "arrays", "front_doors"},
    {"settings"},
    {"types"},
    {"geometry", "statistics"},
    {"cosines", "alarm"},
    {"store", "steering", "endpoint"},
    {"engines"},
    {"plugin"},
    {
        "prompts",
        "rollouts",
        "judge",
        "personas",
        "calibrate",
        "compare",
        "doctor",
        "drift",
        "evaluate",
        "report",
        "studies",
    },
    {"pipeline"},
    {"serve", "ui"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
# Stand-ins that tests use may stand in for anything; nothing else may lean on them.
ASIDE = {"testing"}
EVERYWHERE = {"__init__"}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path):
    """(line, module) of every import of ours, hidden ones inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import from keel, not from a dot"
            module = node.module or ""
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{a.name}") for a in node.names if module == "keel")


def ours(module: str) -> list[str]:
    parts = module.split(".")
    return parts[1:] if parts[0] == "keel" and len(parts) > 1 else []


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_import_from_lower_floors_only(path):
    room = room_of(path)
    if room in EVERYWHERE | ASIDE:
        return
    for line, module in imports_of(path):
        other = (ours(module) or [room])[0]
        if other in (room, "__version__"):
            continue
        assert other in HEIGHT, f"{path}:{line}: {module} is on no floor of the plan"
        assert HEIGHT[other] < HEIGHT[room], f"{path}:{line}: {room} may not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_other_rooms_are_entered_by_the_front_door(path):
    room = room_of(path)
    for line, module in imports_of(path):
        parts = ours(module)
        is_inside = len(parts) > 1 and (SOURCE / parts[0] / parts[1]).with_suffix(".py").exists()
        if room not in EVERYWHERE and parts and parts[0] != room:
            assert not is_inside, f"{path}:{line}: import {module} from keel.{parts[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules_stay_under_five_hundred_lines(path):
    """A module is one idea: beyond this length it holds two. No reason to split by counting."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_functions_stay_under_sixty_lines(path):
    """Signature and docstring aside; a command's list of options is its signature."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
            assert lines <= 60, f"{path}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_docstrings_first_line_is_a_whole_sentence(path):
    """What it is must be understood at first reading; where it breaks off, it says two things."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    first = [text.splitlines()[0] for text in texts if text]
    assert not [line for line in first if not line.endswith((".", "?", ":", "`"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_docstring_says_a_sentence_twice(path):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = (ast.get_docstring(node) if isinstance(node, kinds) else None) or ""
        said = Counter(" ".join(part.split()) for part in re.split(r"(?<=\.)\s", text))
        assert not [part for part, count in said.items() if count > 1 and len(part) > 20]


FILLERS = {"found", "one", "told", "asked", "place", "places", "thing", "things"}
"""Words that say nothing about what a name stands for."""


def words_of(name: str) -> set[str]:
    """`found_axis` and `FoundAxis` are both made of `found` and `axis`."""
    parts = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name.replace("_", " "))
    return {part.lower() for part in parts}


def names_in(tree: ast.AST):
    """(line, name) of everything that a file names itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_names_say_what_they_stand_for(path):
    """Filler words are no names: say which axis, arm, index or folder it is."""
    assert not words_of(path.stem) & FILLERS
    tree = ast.parse(path.read_text(encoding="utf-8"))
    fillers = [f"{line}: {name}" for line, name in names_in(tree) if words_of(name) & FILLERS]
    assert not fillers, f"{path}: {fillers}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_helper_is_a_detour(path):
    """A private function that is called once, has fewer than four lines and no docstring says no
    more than its lines would where they are needed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    uses = uses_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and is_private(node.name) and uses[node.name] == 1:
            lines = node.body[-1].end_lineno - node.body[0].lineno + 1
            is_detour = lines < 4 and not ast.get_docstring(node) and not node.decorator_list
            assert not is_detour, f"{path}:{node.lineno}: {node.name}"


CLASSES = Counter(
    node.name
    for path in FILES
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef) and not is_private(node.name)
)


def test_no_two_classes_are_called_alike():
    assert not [name for name, count in CLASSES.items() if count > 1]


def test_no_room_is_a_lumber_room():
    lumber = re.compile(r"utils?|helpers?|common|misc|manager")
    assert not [p for p in FILES if lumber.fullmatch(p.stem)]


def test_no_pickle_is_loaded():
    """torch.load only with weights_only=True, and no pickle module at all."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pickle\.loads?\(|Unpickler\(|allow_pickle=True", text), path


def test_no_lazy_name_is_a_module_of_its_package():
    """Once the module is imported, the name would stand for it and no longer for the function."""
    import keel
    from keel import pipeline

    for package in (keel, pipeline):
        modules = {p.stem for p in Path(package.__path__[0]).glob("*.py")}
        assert not modules & set(package.__all__) - {"geometry"}, package
