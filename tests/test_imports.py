"""Who imports whom, that no files import each other in a circle, that help is quick, and that files and folders stay small."""

import ast
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import networkx
import pytest

import fulgurite

PACKAGE = Path(fulgurite.__file__).parent
ROOT = PACKAGE.parent

ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "losses": set(),
    "sandbox": set(),
    "console": set(),
    "whole_files": set(),
    "data": {"whole_files"},
    "optim": {"kernels", "whole_files"},
    "adapters": {"kernels", "whole_files"},
    "models": {"adapters", "kernels", "whole_files"},
    "generation": {"models", "adapters", "kernels", "data", "whole_files"},
    "evaluation": {"generation", "sandbox", "models", "adapters", "kernels", "data", "whole_files"},
    "synthesis": {"evaluation", "generation", "sandbox", "data", "whole_files"},
    "datamodules": {"data", "whole_files"},
    "callbacks": {"adapters", "data", "console", "whole_files"},
}
ALLOWED["lightning_modules"] = {*ALLOWED["evaluation"], "losses", "optim", "evaluation"}
ALLOWED["commands"] = {*ALLOWED, "commands"}
ALLOWED["cli"] = {*ALLOWED, "commands", "cli"}
FORBIDDEN_PACKAGES = {
    "kernels": {"lightning", "transformers", "datasets", "peft"},
    "losses": {"lightning", "transformers", "datasets", "peft"},
    "adapters": {"lightning", "transformers", "datasets"},
    "optim": {"lightning", "transformers", "datasets"},
    "data": {"lightning"},
    "sandbox": {"lightning", "transformers", "datasets"},
    "generation": {"lightning"},
    "evaluation": {"lightning"},
    "synthesis": {"lightning"},
}
CROWDED = 14  # files of a folder, beside its rooms and its __init__.py
LONG = {"fulgurite": 400, "benchmarks": 400, "tests": 450}  # lines of a file


def part_of(name: str) -> str:
    """The part of the house that a dotted name or a file stem belongs to; cli_parser belongs to cli."""
    return "cli" if name.startswith("cli") or name == "__main__" else name


def imports(file: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that a file under ``root`` imports, also inside functions and for types only, with their lines."""
    package = file.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{module}.{alias.name}", node.lineno


def circles(root: Path, folders: Iterable[str]) -> list[list[str]]:
    """Groups of files that import each other, directly or through more. ``__init__.py`` only offers names and is left out."""
    paths = [path for folder in folders for path in (root / folder).rglob("*.py") if path.name != "__init__.py"]
    files = {".".join(path.relative_to(root).with_suffix("").parts): path for path in paths}
    graph = networkx.DiGraph()
    for name, path in files.items():
        for target, _ in imports(path, root):  # of `from a.b import c`, c is a file or a name of the file a.b
            graph.add_edge(name, target if target in files else target.rpartition(".")[0])
    groups = networkx.strongly_connected_components(graph.subgraph(files))
    return sorted(sorted(group) for group in groups if len(group) > 1)


def violations(file: Path, root: Path) -> list[str]:
    own = part_of(file.relative_to(root).parts[1].removesuffix(".py"))
    found = []
    for name, line in imports(file, root):
        words = name.split(".")
        if words[0] == "fulgurite" and len(words) > 1 and own in ALLOWED:
            target = part_of(words[1])
            if target != own and target in ALLOWED and target not in ALLOWED[own]:
                found.append(f"{file.relative_to(root)}:{line}: {own} may not import {name}")
        if words[0] in FORBIDDEN_PACKAGES.get(own, ()):
            found.append(f"{file.relative_to(root)}:{line}: {own} may not import {words[0]}")
    return found


def test_nobody_imports_upwards() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 20
    assert [text for file in files for text in violations(file, ROOT)] == []


def test_every_part_of_the_package_is_in_the_table() -> None:
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    files = {part_of(file.stem) for file in PACKAGE.glob("*.py") if file.name != "__init__.py"}
    assert (folders | files) - set(ALLOWED) == set()


def test_the_import_test_sees_imports_inside_functions(tmp_path: Path) -> None:
    bad = tmp_path / "fulgurite" / "kernels" / "bad.py"
    bad.parent.mkdir(parents=True)
    inside = ["from fulgurite.adapters import attach", "from ..models import load_backbone", "import lightning"]
    bad.write_text("\n    ".join(["def f():", *inside]))
    assert [text.split("import ")[1] for text in violations(bad, tmp_path)] == [
        "fulgurite.adapters.attach",
        "fulgurite.models.load_backbone",
        "lightning",
    ]


@pytest.mark.slow
def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(ROOT, ("fulgurite", "benchmarks")) == []


def test_the_circle_test_sees_imports_inside_functions_and_for_types(tmp_path: Path) -> None:
    texts = {
        "__init__.py": "from .a import f",
        "a.py": "from . import b",
        "b.py": "def f():\n    from house.room.c import g",
        "room/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.a",
        "d.py": "from .a import f\nfrom house import f",
    }
    for name, text in texts.items():
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / name).write_text(text)
    assert circles(tmp_path, ["house"]) == [["house.a", "house.b", "house.room.c"]]


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["fti"]])
def test_help_is_quick_and_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys; from fulgurite.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'transformers', 'jsonargparse', 'numpy', 'rich'} & set(sys.modules); "
        "print('heavy:', sorted(heavy)); sys.exit(code)"
    )
    seconds = []
    for _ in range(3):  # the best of three: other work on the machine must not fail this test
        start = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        seconds.append(time.perf_counter() - start)
    assert "heavy: []" in result.stdout
    assert result.returncode == (2 if words == ["fti"] else 0)
    assert min(seconds) < 1.0


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, fulgurite; dir(fulgurite); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "False"


def test_no_file_is_too_long() -> None:
    files = [(file, limit) for folder, limit in LONG.items() for file in (ROOT / folder).rglob("*.py")]
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file, _ in files}
    assert {str(file.relative_to(ROOT)): lengths[file] for file, limit in files if lengths[file] > limit} == {}


def test_no_folder_is_crowded() -> None:
    files = [file for folder in LONG for file in (ROOT / folder).rglob("*.py") if file.name != "__init__.py"]
    counts = Counter(str(file.parent.relative_to(ROOT)) for file in files)
    assert {folder: count for folder, count in counts.items() if count > CROWDED} == {}
