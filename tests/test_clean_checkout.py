"""Running tests leaves no file in the checkout: the check of conftest.py is tried on a checkout of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, files_of_the_checkout


def run_tests(checkout: Path, statement: str) -> subprocess.CompletedProcess[str]:
    (checkout / "tests").mkdir(parents=True)
    (checkout / "tests" / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (checkout / "tests" / "test_one.py").write_text(f"from pathlib import Path\n\n\ndef test_one():\n    {statement}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "tests"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_run_that_leaves_a_file_fails_and_names_it(tmp_path):
    tidy = run_tests(tmp_path / "tidy", "assert Path('tests').is_dir()")
    assert tidy.returncode == 0, tidy.stdout + tidy.stderr
    untidy = run_tests(
        tmp_path / "untidy", "Path('lightning_logs').mkdir(); Path('lightning_logs/metrics.csv').touch()"
    )
    assert untidy.returncode == 1 and "1 passed" in untidy.stdout, untidy.stdout + untidy.stderr
    assert "appeared in the checkout" in untidy.stdout and "lightning_logs/metrics.csv" in untidy.stdout


def test_caches_and_environments_do_not_count(tmp_path):
    for name in (
        "a.py",
        ".pytest_cache/v",
        "x/__pycache__/a.pyc",
        ".venv/b",
        "f.egg-info/c",
        ".git/HEAD",
        "x/runs/last.ckpt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files_of_the_checkout(tmp_path) == {"a.py", "x/runs/last.ckpt"}
