"""What a machine without a network needs, in one ignored folder of limited size."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.gpu import packing
from benchmarks.gpu.packing import WHEELS, environment_of, install, pack, pinned


def fetched(sizes):
    def fetch(requirements, folder):
        assert requirements == [f"{name}=={pinned(name)}" for name in WHEELS]
        folder.mkdir()
        for name, size in sizes.items():
            (folder / name).write_bytes(bytes(size))

    return fetch


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "data" / "glue" / "SST-2"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text("sentence\tlabel\n")
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    save_file({"w": torch.tensor([1.0, 2.5]), "n": torch.tensor([3])}, folder / "model.safetensors")
    return folder


def test_wheels_rows_and_halved_weights_are_packed(tmp_path, rows, model):
    target = tmp_path / "pack"
    assert pack(target, rows, model, fetched({"a.whl": 1000})) > 1000
    assert (target / "rows/glue/SST-2/train.tsv").read_text() == "sentence\tlabel\n"
    weights = load_file(target / "minilm/model.safetensors")
    assert (
        weights["w"].dtype == torch.bfloat16
        and weights["w"].tolist() == [1.0, 2.5]
        and weights["n"].dtype == torch.int64
    )
    assert (target / "minilm/1_Pooling/config.json").is_file() and (target / "commit").read_text().strip()
    found = environment_of(target, tmp_path / "site")
    assert found["FULGURITE_REAL_DATA"] == str(target / "rows") and found["FULGURITE_MINILM"] == str(target / "minilm")
    assert found["PYTHONPATH"].split(":")[:2] == [str(packing.ROOT), str(tmp_path / "site")]


def test_a_pack_above_the_limit_is_refused_and_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "pack"
    pack(target, None, None, fetched({"a.whl": 10}))
    monkeypatch.setattr(packing, "LIMIT", 2**20)
    with pytest.raises(ValueError, match=r"would take 2\.0 MiB \(commit 0\.0, wheels 2\.0\), allowed are 1"):
        pack(target, None, None, fetched({"a.whl": 2 * 2**20}))
    assert [file.name for file in (target / "wheels").iterdir()] == ["a.whl"]
    assert (target / "wheels/a.whl").stat().st_size == 10 and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_git_would_commit_is_refused(tmp_path):
    if subprocess.run(["git", "-C", str(packing.ROOT), "rev-parse"], capture_output=True).returncode:
        pytest.skip("the checkout is no git repository")
    with pytest.raises(ValueError, match="git does not ignore"):
        pack(packing.ROOT / "docs", None, None, fetched({}))
    assert packing._ignored(packing.ROOT / ".gpu")


def test_a_package_that_is_not_pinned_is_named(tmp_path):
    (tmp_path / "constraints.txt").write_text('trl==1.16.0; python_version >= "3.11"\n')
    assert pinned("trl", tmp_path / "constraints.txt") == "1.16.0"
    with pytest.raises(ValueError, match=r"does not pin peft"):
        pinned("peft", tmp_path / "constraints.txt")


def test_wheels_are_installed_without_a_network(tmp_path):
    (tmp_path / "wheels").mkdir()
    info = "thing-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "wheels" / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing.py", "answer = 42\n")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\nRequires-Dist: no-such-package\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"thing.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this environment has no pip")
    install(tmp_path, tmp_path / "site")
    assert (tmp_path / "site" / "thing.py").read_text() == "answer = 42\n"
    with pytest.raises(FileNotFoundError, match="holds no wheels"):
        install(tmp_path / "site", tmp_path / "other")
