"""Records, readers, tokenised rows, sampling and collation; nothing in here imports Lightning.

The names below are looked up on first use, so that importing a light part of the package (the playground, say) does
not pay for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fulgurite.data.collate import CausalLMCollator, RowCollator
    from fulgurite.data.encoding import EncodedRows, encode_documents, encode_examples
    from fulgurite.data.files import Table, read_table
    from fulgurite.data.glue import GLUE_TASKS, GLUETask
    from fulgurite.data.loader import ResumableLoader
    from fulgurite.data.records import Examples
    from fulgurite.data.sampling import Batch, WindowSampler
    from fulgurite.data.tokenizers import load_tokenizer

__all__ = [
    "GLUE_TASKS",
    "Batch",
    "CausalLMCollator",
    "EncodedRows",
    "Examples",
    "GLUETask",
    "ResumableLoader",
    "RowCollator",
    "Table",
    "WindowSampler",
    "encode_documents",
    "encode_examples",
    "load_tokenizer",
    "read_table",
]

_HOME = {
    "GLUE_TASKS": "glue",
    "Batch": "sampling",
    "CausalLMCollator": "collate",
    "EncodedRows": "encoding",
    "Examples": "records",
    "GLUETask": "glue",
    "ResumableLoader": "loader",
    "RowCollator": "collate",
    "Table": "files",
    "WindowSampler": "sampling",
    "encode_documents": "encoding",
    "encode_examples": "encoding",
    "load_tokenizer": "tokenizers",
    "read_table": "files",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"fulgurite.data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fulgurite.data' has no attribute {name!r}")
