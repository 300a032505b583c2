"""Which files a piece hangs on, and that a change of one of them is noticed."""

from __future__ import annotations

from benchmarks.gpu.code import ROOT, code_hash, files_behind


def checkout(folder):
    files = {
        "fulgurite/__init__.py": "",
        "fulgurite/kernels/__init__.py": "",
        "fulgurite/kernels/lazy.py": "x = 1",
        "fulgurite/optim/__init__.py": "from fulgurite.kernels import something",
        "fulgurite/data/__init__.py": "",
        "benchmarks/__init__.py": "",
        "benchmarks/suite.py": "from benchmarks import other",
        "benchmarks/other.py": "",
        "benchmarks/run.py": "from benchmarks.suite import all_benchmarks\nfrom .harness import timing",
        "benchmarks/harness/__init__.py": "",
        "benchmarks/harness/timing.py": "def f():\n    from fulgurite.optim import Adam",
        "configs/a.yaml": "a: 1",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_imports_are_followed_into_whole_rooms_and_the_register_is_not(tmp_path):
    root = checkout(tmp_path)
    found = {str(path.relative_to(root)) for path in files_behind(("benchmarks/run.py", "configs"), root)}
    assert found == {
        "benchmarks/run.py", "benchmarks/__init__.py", "benchmarks/harness/__init__.py", "benchmarks/harness/timing.py",
        "fulgurite/optim/__init__.py", "fulgurite/kernels/__init__.py", "fulgurite/kernels/lazy.py", "configs/a.yaml",
    }  # fmt: skip


def test_a_change_behind_a_piece_changes_its_hash(tmp_path):
    root = checkout(tmp_path)
    before = code_hash(("benchmarks/run.py",), root)
    (root / "fulgurite/data/__init__.py").write_text("y = 1")
    assert code_hash(("benchmarks/run.py",), root) == before
    (root / "fulgurite/kernels/lazy.py").write_text("x = 2")
    assert code_hash(("benchmarks/run.py",), root) != before


def test_the_linear_benchmark_hangs_on_kernels_and_adapters_only():
    found = files_behind(("benchmarks/speed/linear.py",))
    rooms = {path.relative_to(ROOT).parts[1] for path in found if path.relative_to(ROOT).parts[0] == "fulgurite"}
    assert {"kernels", "adapters"} <= rooms and not rooms & {"datamodules", "commands", "lightning_modules"}
