"""Who imports whom, that help is quick, and that no file outgrows its subject."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fulgurite

PACKAGE = Path(fulgurite.__file__).parent
ROOT = PACKAGE.parent

ALLOWED: dict[str, set[str]] = {
    "console": set(),
    "whole_files": set(),
    "kernels": set(),
    "losses": set(),
    "data": {"whole_files"},
    "optim": {"kernels", "whole_files"},
    "adapters": {"kernels", "whole_files"},
    "models": {"adapters", "kernels", "whole_files"},
    "evaluation": {"models", "adapters", "kernels", "data", "whole_files"},
    "lightning_modules": {"models", "adapters", "losses", "optim", "kernels", "data", "evaluation", "whole_files"},
    "datamodules": {"data", "whole_files"},
    "callbacks": {"adapters", "data", "console", "whole_files"},
}
ALLOWED["commands"] = {*ALLOWED, "commands"}
ALLOWED["cli"] = {*ALLOWED, "commands", "cli"}
FORBIDDEN_PACKAGES = {
    "kernels": {"lightning", "transformers", "datasets", "peft"},
    "losses": {"lightning", "transformers", "datasets", "peft"},
    "adapters": {"lightning", "transformers", "datasets"},
    "optim": {"lightning", "transformers", "datasets"},
    "data": {"lightning"},
    "evaluation": {"lightning"},
}


def part_of(name: str) -> str:
    """The part of the house that a dotted name or a file stem belongs to; cli_parser belongs to cli."""
    return "cli" if name.startswith("cli") or name == "__main__" else name


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that a file imports, also inside functions, with their lines."""
    package = ["fulgurite", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{module}.{alias.name}", node.lineno


def violations(file: Path) -> list[str]:
    own = part_of(file.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    found = []
    for name, line in imports(file):
        words = name.split(".")
        if words[0] == "fulgurite" and len(words) > 1 and own in ALLOWED:
            target = part_of(words[1])
            if target != own and target in ALLOWED and target not in ALLOWED[own]:
                found.append(f"{file.relative_to(ROOT)}:{line}: {own} may not import {name}")
        if words[0] in FORBIDDEN_PACKAGES.get(own, ()):
            found.append(f"{file.relative_to(ROOT)}:{line}: {own} may not import {words[0]}")
    return found


def test_nobody_imports_upwards() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 20
    assert [text for file in files for text in violations(file)] == []


def test_every_part_of_the_package_is_in_the_table() -> None:
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    assert folders - set(ALLOWED) == set()


def test_the_import_test_sees_imports_inside_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "kernels" / "bad.py"
    bad.parent.mkdir()
    inside = ["from fulgurite.adapters import attach", "from ..models import load_backbone", "import lightning"]
    bad.write_text("\n    ".join(["def f():", *inside]))
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert [text.split("import ")[1] for text in violations(bad)] == [
        "fulgurite.adapters.attach",
        "fulgurite.models.load_backbone",
        "lightning",
    ]


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


def test_no_file_is_longer_than_450_lines() -> None:
    folders = [folder for folder in ("fulgurite", "tests", "benchmarks") if (ROOT / folder).is_dir()]
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines()) for f in folders for file in (ROOT / f).rglob("*.py")
    }
    assert {str(file.relative_to(ROOT)): count for file, count in lengths.items() if count > 450} == {}
