"""Loading a tokenizer by hub id, folder or playground name, and a fingerprint of what it does.

A tokenizer without a padding token gets its end-of-text (or unknown) token as one: padded positions are masked out of
attention and loss, so that which token stands there changes nothing but the row's length.
"""

import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_tokenizer", "tokenizer_fingerprint"]

_log = logging.getLogger(__name__)


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer called `name`, with a padding token; code that comes with it is never run.

    Args:
        name: hub id, local folder, a GGUF file, or a name of the playground such as "playground".
    """
    from transformers import AutoTokenizer

    from fulgurite.data.playground import resolve_backbone

    where = resolve_backbone(name)
    source, options = _source(where)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and its hub's own errors here
        if options:
            hint = (
                "the GGUF file is cut short, or describes no tokenizer that transformers can make (give another one, "
                "--data.tokenizer), or the package gguf is not installed (pip install 'fulgurite[gguf]')"
            )
        elif Path(where).is_dir():
            found = sorted(p.name for p in Path(where).iterdir())[:12]
            hint = f"the folder holds {found}; save a tokenizer there (tokenizer.save_pretrained)"
        else:
            hint = "no such folder here; give a hub id that can be reached, a folder with a tokenizer, or 'playground'"
        raise ValueError(f"load_tokenizer: {name!r} has no tokenizer that loads; {hint}. Cause: {error}") from error
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ValueError(
                f"load_tokenizer: {name!r} has no pad, eos or unk token; one of them is needed to pad a batch; "
                "set tokenizer.pad_token and save the tokenizer again"
            )
        tokenizer.pad_token = substitute
        _log.info("%s has no padding token: %r is used for padding", name, substitute)
    return tokenizer


def _source(where: str) -> tuple[str, dict[str, str]]:
    """What ``from_pretrained`` takes for a place; for a GGUF file, or a folder with one and no model, its ``gguf_file``."""
    place = Path(where)
    files = [place] if place.suffix.lower() == ".gguf" and place.is_file() else []
    if place.is_dir() and not any((place / name).is_file() for name in ("config.json", "tokenizer_config.json")):
        files = sorted(file for file in place.iterdir() if file.suffix.lower() == ".gguf")
    if len(files) != 1:
        return where, {}
    return str(files[0].absolute().parent), {"gguf_file": str(files[0].absolute())}


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A sha256 that changes whenever the tokenizer would cut a text differently; the same in every process."""
    digest = hashlib.sha256()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state: dict[str, Any] = json.loads(backend.to_str())
        # Every call with other padding or truncation arguments writes these two; they are not the tokenizer's own.
        state.pop("truncation", None)
        state.pop("padding", None)
        digest.update(json.dumps(state, sort_keys=True).encode())
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            for file in sorted(Path(folder).iterdir()):
                if file.name != "tokenizer_config.json":  # it names the folder that the tokenizer came from
                    digest.update(file.name.encode() + b"\0" + file.read_bytes())
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    digest.update(json.dumps(special, sort_keys=True).encode())
    digest.update(json.dumps(list(tokenizer.model_input_names)).encode())
    return digest.hexdigest()
