"""Records, readers, tokenised rows, sampling and collation; nothing in here imports Lightning.

The names below are looked up on first use, so that importing a light part of the package (the playground, say) does
not pay for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fulgurite.data.encoding.texts import encode_documents, encode_examples
    from fulgurite.data.encoding.tokenizers import load_tokenizer
    from fulgurite.data.readers.conversations import CONVERSATION_SCHEMAS, ConversationReader
    from fulgurite.data.records.conversation import Conversation, Turn
    from fulgurite.data.records.examples import Examples
    from fulgurite.data.rows.collate import CausalLMCollator, RowCollator, Seq2SeqCollator
    from fulgurite.data.rows.encoded import EncodedRows
    from fulgurite.data.rows.packed import PackedCollator, PackedRows, best_fit
    from fulgurite.data.sampling.loader import ResumableLoader
    from fulgurite.data.sampling.mixing import mix
    from fulgurite.data.sampling.windows import Batch, WindowSampler
    from fulgurite.data.sources.formats import stream_rows
    from fulgurite.data.sources.tables import Table, read_table
    from fulgurite.data.tasks.glue import GLUE_TASKS, GLUETask

__all__ = [
    "CONVERSATION_SCHEMAS",
    "GLUE_TASKS",
    "Batch",
    "CausalLMCollator",
    "Conversation",
    "ConversationReader",
    "EncodedRows",
    "Examples",
    "GLUETask",
    "PackedCollator",
    "PackedRows",
    "ResumableLoader",
    "RowCollator",
    "Seq2SeqCollator",
    "Table",
    "Turn",
    "WindowSampler",
    "best_fit",
    "encode_documents",
    "encode_examples",
    "load_tokenizer",
    "mix",
    "read_table",
    "stream_rows",
]

_HOME = {
    "CONVERSATION_SCHEMAS": "readers.conversations",
    "GLUE_TASKS": "tasks.glue",
    "Batch": "sampling.windows",
    "CausalLMCollator": "rows.collate",
    "Conversation": "records.conversation",
    "ConversationReader": "readers.conversations",
    "EncodedRows": "rows.encoded",
    "Examples": "records.examples",
    "GLUETask": "tasks.glue",
    "PackedCollator": "rows.packed",
    "PackedRows": "rows.packed",
    "ResumableLoader": "sampling.loader",
    "RowCollator": "rows.collate",
    "Seq2SeqCollator": "rows.collate",
    "Table": "sources.tables",
    "Turn": "records.conversation",
    "WindowSampler": "sampling.windows",
    "best_fit": "rows.packed",
    "encode_documents": "encoding.texts",
    "encode_examples": "encoding.texts",
    "load_tokenizer": "encoding.tokenizers",
    "mix": "sampling.mixing",
    "read_table": "sources.tables",
    "stream_rows": "sources.formats",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"fulgurite.data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fulgurite.data' has no attribute {name!r}")
