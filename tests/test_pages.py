"""The code on every page runs as a reader pastes it: from top to bottom, in a fresh namespace.

A package that `pip install` does not bring has to be named before the block that needs it, as in
"With `h5py` installed"; up to there its import fails. Where such a package is missing here, the
rest of the page is compiled, as is a block after the words "Under `torchrun`" or "Logged in".
"""

from __future__ import annotations

import ast
import codeop
import doctest
import importlib.util
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
EXTRAS = {  # and what each of them brings
    "anndata": {"h5py", "pandas", "scipy"},
    "faiss": set(),
    "h5py": set(),
    "huggingface_hub": {"tqdm"},
    "matplotlib": set(),
    "onnxscript": set(),
    "open_clip": {"huggingface_hub", "tqdm"},
    "pandas": set(),
    "safetensors": set(),
    "scipy": set(),
    "sklearn": {"scipy"},
    "tensorboard": set(),
    "tqdm": set(),
    "transformers": {"huggingface_hub", "safetensors", "tqdm"},
    "wandb": set(),
}
WRITTEN_BY_BENCHMARKS = {"docs/benchmarks.md"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"[Ww]ith\s+`(\w+)`\s+installed")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


class Block(NamedTuple):
    language: str
    code: str
    line: int
    needs: set[str]
    elsewhere: bool  # where there are several processes, or an account


def blocks(page: str) -> list[Block]:
    text, found, end = PAGES[page], [], 0
    for match in FENCE.finditer(text):
        before = text[end : match.start()]
        needs = set(NEEDS.findall(before))
        elsewhere = "Under `torchrun`" in before or "Logged in" in before
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[1], match[2], line, needs, elsewhere))
        end = match.end()
    return found


def pasted(block: Block) -> list[str]:
    """The lines that the copy button gives: without prompts and output."""
    lines = block.code.splitlines()
    if not block.code.startswith(">>> "):
        return lines
    return [line[4:] for line in lines if line.startswith((">>>", "..."))]


@contextmanager
def hidden(names: set[str]) -> Iterator[None]:
    """Let the import of these packages fail, also if it happened before."""
    kept = {name: m for name, m in sys.modules.items() if name.partition(".")[0] in names}
    for name in kept:
        del sys.modules[name]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(kept)


def run(block: Block, page: str, namespace: dict[str, Any]) -> None:
    if not block.code.startswith(">>> "):
        exec(compile("\n" * block.line + block.code, page, "exec"), namespace)
        return
    test = doctest.DocTestParser().get_doctest(block.code, {}, page, page, block.line)
    test.globs, report = namespace, []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch to itself
@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in PAGES[p]])
def test_a_page_runs_as_it_is_pasted(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    absent = set(EXTRAS)
    missing: set[str] = set()
    with torch.random.fork_rng():
        for block in blocks(page):
            absent -= block.needs.union(*(EXTRAS[name] for name in block.needs))
            missing |= {name for name in block.needs if not importlib.util.find_spec(name)}
            if block.language == "python" and not missing and not block.elsewhere:
                with hidden(absent):
                    run(block, page, namespace)
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: what follows in {page} was only compiled")


def test_a_package_that_the_page_does_not_name_cannot_be_imported() -> None:
    with hidden({"h5py"}), pytest.raises(ImportError):
        import h5py
    import h5py  # noqa: F401


@pytest.mark.parametrize("page", PAGES)
def test_python_can_be_pasted_into_a_console(page: str) -> None:
    for block in blocks(page):
        lines: list[str] = []
        for line in [*pasted(block), ""] if block.language == "python" else []:
            lines.append(line)
            try:
                if codeop.compile_command("\n".join(lines)):
                    lines = []
            except SyntaxError as error:
                raise AssertionError(f"{page}, block in line {block.line}: {line}") from error
        assert not lines, f"{page}, block in line {block.line}"


@pytest.mark.parametrize("page", [p for p in PAGES if "```diff" in PAGES[p]])
def test_what_a_diff_makes_of_the_code_parses(page: str) -> None:
    for block in blocks(page):
        if block.language == "diff":
            after = [line[1:] for line in block.code.splitlines() if line[:1] != "-"]
            ast.parse(textwrap.dedent("\n".join(after)))


@pytest.mark.parametrize("page", PAGES)
def test_every_script_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"\b(?:examples|benchmarks|tests)/[\w./]+\.(?:py|yaml)\b", PAGES[page]))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_or_a_heading_has_its_end(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", FENCE.sub("", PAGES[page]))
    for path, anchor in links:
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text()), f"{path}#{anchor}"


@pytest.mark.parametrize("page", sorted(PAGES.keys() - WRITTEN_BY_BENCHMARKS))
def test_a_page_reads_the_same_on_github(page: str) -> None:
    """GitHub knows no roles and no colon fences; to MyST, a line from % on is a comment."""
    roles_and_fences = r"\{(?:func|class|meth|attr|math|ref|doc)\}`|^:::.*|^ *%.*"
    assert re.findall(roles_and_fences, PAGES[page], re.MULTILINE) == []
