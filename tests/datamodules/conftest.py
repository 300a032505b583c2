"""A word-level tokenizer that is made on the spot."""

from pathlib import Path

import pytest

_WORDS = [*"abcdefgh", "good", "bad", "film", "the", "of", "and", "red", "green", "blue", "one", "two", "three"]


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
