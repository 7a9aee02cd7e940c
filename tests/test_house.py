"""The house itself: who imports whom, who may raise, what is public."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import structure_reg as sr

ROOT = Path(sr.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
every_file = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))


def imported(tree: ast.Module) -> set[str]:
    """Modules of this package that a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            # What is taken from a package may be a module of it.
            names |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    names |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return {name for name in names if name.split(".")[0] == "structure_reg"}


@every_file
def test_foundations_do_not_import_rooms(file: Path) -> None:
    """Kernels and the files beside the rooms; a room's own `_checks.py` is part of the room."""
    first = file.relative_to(ROOT).parts[0]
    if not first.startswith("_") or first.startswith("__"):
        return
    for module in imported(ast.parse(file.read_text())):
        assert module.startswith("structure_reg._"), f"{file.name} imports {module}"


def test_no_file_imports_itself_through_others() -> None:
    """Imports inside a function and under TYPE_CHECKING count too."""
    graph = {
        ".".join(file.relative_to(ROOT.parent).with_suffix("").parts): imported(
            ast.parse(file.read_text())
        )
        for file in FILES
    }
    while leaves := [module for module, names in graph.items() if not names & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"a circle among {sorted(graph)}"


@every_file
def test_only_the_checks_raise(file: Path) -> None:
    """A message is written in one place; elsewhere an error is handed over or passed on."""
    if file.name == "_checks.py":
        return
    for node in ast.walk(ast.parse(file.read_text())):
        assert not isinstance(node, ast.Assert), f"{file.name}:{node.lineno} asserts"
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            made_by = ast.unparse(node.exc.func)
            assert made_by.startswith("no_"), f"{file.name}:{node.lineno} raises {made_by}"


@every_file
def test_private_functions_take_at_most_eight_parameters(file: Path) -> None:
    """Public functions and constructors are flat; below them, options travel in records."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name not in {*sr.__all__, "__init__"}:
            names = [
                a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            ]
            count = len([name for name in names if name not in ("self", "cls", "ctx")])
            assert count <= 8, f"{file.name}:{node.lineno} {node.name} takes {count}"


@every_file
def test_no_host_waits_for_a_device_in_losses(file: Path) -> None:
    if file.parent.name == "losses" and file.name != "temperature.py":
        assert ".item()" not in file.read_text()


@every_file
def test_a_file_is_one_idea(file: Path) -> None:
    if file.name == "_checks.py":  # one list of sentences
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [
        node.body[0]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, documented) and ast.get_docstring(node)
    ]
    described = sum((doc.end_lineno or 0) - doc.lineno + 1 for doc in docs)
    assert len(file.read_text().splitlines()) - described <= 200


@every_file
def test_operators_take_sequences(file: Path) -> None:
    """PyTorch 2.6 infers no schema from list[Tensor]."""
    for node in ast.walk(ast.parse(file.read_text())):
        decorators = getattr(node, "decorator_list", [])
        if any("custom_op" in ast.unparse(decorator) for decorator in decorators):
            assert isinstance(node, ast.FunctionDef)
            assert "list[" not in ast.unparse(node.args), f"{file.name}:{node.lineno}"


COMPILED = ("_checks.py", "_precision.py", "losses", "similarity", "_kernels")


@pytest.mark.parametrize("place", COMPILED)
def test_what_is_compiled_checks_no_unions(place: str) -> None:
    """PyTorch 2.6 compiles isinstance(x, (A, B)), but not isinstance(x, A | B)."""
    for file in [*(ROOT / place).rglob("*.py"), ROOT / place]:
        for node in ast.walk(ast.parse(file.read_text() if file.is_file() else "")):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                assert not isinstance(node.args[1], ast.BinOp), f"{file.name}:{node.lineno}"


def test_public_names_are_documented() -> None:
    for name in sr.__all__:
        doc = inspect.getdoc(getattr(sr, name)) or ""
        assert doc, name
        if inspect.isfunction(getattr(sr, name)):
            sections = ("Parameters", "Returns", "Raises", "Examples")
            missing = [s for s in sections if f"{s}\n---" not in doc.replace("Yields", "Returns")]
            assert not missing, f"{name} lacks {missing}"


def test_every_public_name_is_on_the_reference_page_of_its_room() -> None:
    pages = sorted((Path(__file__).parents[1] / "docs/reference").glob("*.md"))
    listed = {p.stem: re.findall(r"^\.\. auto\w+:: (\w+)$", p.read_text(), re.M) for p in pages}
    assert sorted(name for names in listed.values() for name in names) == sorted(sr.__all__)
    for room, names in listed.items():
        for name in set(names) - {"tile_budget"}:  # a foundation, shown with the losses
            assert getattr(sr, name).__module__.split(".")[1] == room, name


@pytest.mark.parametrize("name", [n for n in sr.__all__ if isinstance(getattr(sr, n), type)])
def test_the_reference_describes_every_attribute_of_a_class(name: str) -> None:
    """Sphinx shows members with a docstring; the docstring of the class lists the fields."""
    kind = getattr(sr, name)
    doc = inspect.getdoc(kind) or ""
    members = [n for n in vars(kind) if n[0] != "_" and n != "extra_repr"]
    fields = {*getattr(kind, "_fields", ()), *getattr(kind, "__dataclass_fields__", ())}
    fields |= {n for n in inspect.get_annotations(kind) if n.endswith("_")}  # set by `fit`
    named = re.findall(r"^([\w, ]+)(?: :|$)", doc, re.M)
    listed = {n.strip() for names in named for n in names.split(",")}
    for member in fields.union(members):
        own = inspect.getdoc(vars(kind).get(member)) if member not in fields else None
        assert own or member in listed, f"{name}.{member}"


def test_version_is_that_of_the_installed_package() -> None:
    assert sr.__version__ == version("structure-reg")
    assert (ROOT / "py.typed").exists()


def test_a_release_is_dated_once_and_the_same_everywhere() -> None:
    root = Path(__file__).parents[1]
    here = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    citation = (root / "CITATION.cff").read_text().splitlines()
    date = next(line for line in citation if line.startswith("date-released")).split('"')[1]
    assert f"version: {here}" in citation
    assert f"## {here} - {date}" in (root / "CHANGELOG.md").read_text().splitlines()


def test_actions_are_pinned_by_commit() -> None:
    for workflow in (Path(__file__).parents[1] / ".github/workflows").glob("*.yml"):
        used = re.findall(r"uses: (.*)", workflow.read_text())
        assert used
        assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action) for action in used)
