"""The options that data modules share, each described once.

How they come into a class's signature and docstring: fulgurite.data.inherited_options.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from fulgurite.data import inherited_options

__all__ = ["OPTIONS", "check_choice", "documented", "inherits_options"]

OPTIONS = {
    # Where rows are and how they are read.
    "path": 'hub id; file; folder with files named after their split, or saved by datasets; "builtin"; or a list of these; '
    "None takes the hub id of the data set that the class is named after.",
    "val_path": "file or folder of the validation rows; None takes those of path, or cuts val_fraction.",
    "test_path": "file or folder of the test rows; None takes those of path.",
    "schema": 'how rows are read, see fulgurite.data.readers; "auto" guesses from the columns.',
    "columns": "the file's name of columns that the schema calls otherwise.",
    "on_bad_row": 'a row that cannot be used is left out and counted, as long as a tenth of the rows at most is ("few") or however '
    'many are ("skip"), or stops the run ("error").',
    "val_fraction": "share of the training rows that validate where there are no validation rows, whole groups of them; 0 for "
    "no validation.",
    "revision": "commit of the hub's data set; None takes the one that we know, or the newest.",
    # What is made of them.
    "tokenizer": "hub id, folder or playground name; None takes the backbone of the module that is trained.",
    "template": "None takes the tokenizer's own chat template or our default; or a known name; or a jinja file.",
    "supervise": 'train on the answers ("assistant"), on the last of each conversation ("last"), or on every token ("all").',
    "task_type": '"causal_lm" or "seq2seq", where each answer is predicted from all that stands before it.',
    "packing": "lay several conversations into one row of max_length tokens, where none of them sees another (causal_lm).",
    "too_long": 'a conversation longer than max_length is left out and counted ("drop"), stops the run ("error"), or loses the '
    'end of its answer and with it the mark where to stop ("cut").',
    "weights": "share of each tag (language, task, file) in the training rows; None takes the rows as they are.",
    "mixing": "with weights, an epoch ends when the first tag's rows do, or has as many rows as there are and repeats.",
    "max_length": "tokens of a row at most; longer rows are cut.",
    "limit_train": "train on that many random rows only.",
    # How they are batched.
    "batch_size": "training rows (packs where rows are packed) per process and batch.",
    "eval_batch_size": "the same in validation, test and prediction; None takes four times batch_size.",
    "num_workers": "processes that collate batches.",
    "seed": "decides the order of the training rows.",
    "cache_dir": "folder of the tokenised rows; None takes $FULGURITE_CACHE or ~/.cache/fulgurite.",
    "pad_multiple": "padded lengths are rounded up to a multiple of it.",
}

documented = functools.partial(inherited_options.documented, shared=OPTIONS)
inherits_options = functools.partial(inherited_options.inherits_options, shared=OPTIONS)


def check_choice(owner: str, option: str, value: object, allowed: Sequence[str]) -> None:
    """Raises a ValueError unless an option has one of the values that are allowed.

    Args:
        owner: the class, for the message.
        option: its name.
        value: as it was given.
        allowed: all that it may be.
    """
    if value not in allowed:
        raise ValueError(f"{owner}: {option} is {value!r}; allowed are {', '.join(map(repr, allowed))}")
