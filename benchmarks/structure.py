"""How the house stands: packages and arrows between them, largest file and function, and what an update passes through.

    python benchmarks/structure.py > results/structure.md

The files of a method are those whose code runs in one update of each of its networks on toy networks, so what a reader
opens at most who follows it from the loop to the last loss; `core/` is counted apart.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import grimp

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lenient"
METHODS = ("ta-dfkd", "meta-dfkd", "fastdfkd", "deepinversion")


def arrows() -> dict[tuple[str, str], int]:
    """Return how many imports go from one package, or module at the root, to another."""
    graph = grimp.build_graph("lenient", exclude_type_checking_imports=True)
    found: dict[tuple[str, str], int] = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = (_room(module), _room(imported))
            if pair[0] != pair[1] and "" not in pair:
                found[pair] = found.get(pair, 0) + 1
    return found


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def circles(pairs: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Return the pairs of packages that reach each other."""
    reach: dict[str, set[str]] = {}
    for start in {one for one, _ in pairs}:
        seen, todo = set(), [start]
        while todo:
            here = todo.pop()
            nexts = {other for one, other in pairs if one == here} - seen
            seen |= nexts
            todo += nexts
        reach[start] = seen
    return sorted((one, two) for one in reach for two in reach[one] if one < two and one in reach.get(two, set()))


def functions(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield lines, those of the docstring among them, and name of every function in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            described = ast.get_docstring(node) is not None
            yield _lines(node), _lines(node.body[0]) if described else 0, f"{path.relative_to(SOURCE)}: {node.name}"


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None, "parsed from a file"
    return node.end_lineno - node.lineno + 1


def files_of(method: str) -> tuple[set[Path], set[Path]]:
    """Return the files that one update of each network of a method passes through, without and of `core/`."""
    sys.path.insert(0, str(ROOT / "tests"))
    from test_methods import BASE, distillation

    run: Any = distillation(method=BASE[method])
    left = set(run.algorithm.updates)
    seen: set[str] = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    while left:
        sys.setprofile(watch)
        try:
            name, _ = run.take_update()
        finally:
            sys.setprofile(None)
        left.discard(name)
    own = {Path(name) for name in seen if name.startswith(str(SOURCE))}
    core = {path for path in own if path.relative_to(SOURCE).parts[0] == "core"}
    return own - core, core


def main() -> None:
    """Print the page."""
    paths = sorted(SOURCE.rglob("*.py"))
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    pairs = arrows()
    rooms = {room for pair in pairs for room in pair}
    largest = max(lines, key=lambda path: lines[path])
    every = [entry for path in paths for entry in functions(path)]
    whole, told, name = max(every)
    bare, place = max((lines - docstring, name) for lines, docstring, name in every)
    print("# How the house stands\n\n`python benchmarks/structure.py > results/structure.md`\n")
    print("| what | figure |\n|---|---|")
    print(f"| files, lines | {len(paths)}, {sum(lines.values()):,} |")
    print(f"| packages and root modules, arrows between them | {len(rooms)}, {len(pairs)} |")
    print(f"| pairs in a circle | {len(circles(pairs))} |")
    print(f"| largest file | `{largest.relative_to(SOURCE)}`, {lines[largest]} lines |")
    print(f"| largest function | `{name}`, {whole} lines, {told} of them its docstring |")
    print(f"| largest function without its docstring | `{place}`, {bare} lines |")
    print("\nThat no arrow runs up is import-linter's word: `lint-imports`, in `make check`.\n")
    print("| method | files that its updates pass through | lines | and of `core/` | its own file |")
    print("|---|---|---|---|---|")
    for method in METHODS:
        own, core = files_of(method)
        home = SOURCE / "methods" / f"{method.replace('-', '_')}.py"
        total = sum(lines[path] for path in own)
        print(f"| {method} | {len(own)} | {total:,} | {len(core)} | {lines[home]} lines |")


if __name__ == "__main__":
    main()
