"""Records, readers, tokenised rows, sampling and collation; nothing in here imports Lightning.

The names below are looked up on first use, so that importing a light part of the package (the playground, say) does
not pay for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fulgurite.data.collate import CausalLMCollator, RowCollator, Seq2SeqCollator
    from fulgurite.data.conversation_readers import CONVERSATION_SCHEMAS, ConversationReader
    from fulgurite.data.conversations import Conversation, Turn
    from fulgurite.data.encoding import EncodedRows, encode_documents, encode_examples
    from fulgurite.data.files import Table, read_table
    from fulgurite.data.glue import GLUE_TASKS, GLUETask
    from fulgurite.data.loader import ResumableLoader
    from fulgurite.data.mixing import mix
    from fulgurite.data.packing import PackedCollator, PackedRows, best_fit
    from fulgurite.data.records import Examples
    from fulgurite.data.sampling import Batch, WindowSampler
    from fulgurite.data.streaming import stream_rows
    from fulgurite.data.tokenizers import load_tokenizer

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
    "CONVERSATION_SCHEMAS": "conversation_readers",
    "GLUE_TASKS": "glue",
    "Batch": "sampling",
    "CausalLMCollator": "collate",
    "Conversation": "conversations",
    "ConversationReader": "conversation_readers",
    "EncodedRows": "encoding",
    "Examples": "records",
    "GLUETask": "glue",
    "PackedCollator": "packing",
    "PackedRows": "packing",
    "ResumableLoader": "loader",
    "RowCollator": "collate",
    "Seq2SeqCollator": "collate",
    "Table": "files",
    "Turn": "conversations",
    "WindowSampler": "sampling",
    "best_fit": "packing",
    "encode_documents": "encoding",
    "encode_examples": "encoding",
    "load_tokenizer": "tokenizers",
    "mix": "mixing",
    "read_table": "files",
    "stream_rows": "streaming",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"fulgurite.data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fulgurite.data' has no attribute {name!r}")
