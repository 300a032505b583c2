"""The options that data modules share, each described once; a class describes those of its own, or one that means more there.

The descriptions become part of the classes' docstrings, where `--help` and `help()` find them. A class names its own options
alone; those of its base come into its signature by :func:`inherits_options`, so that the command line, YAML files and `help()` see
one flat list, and a misspelt name is an error.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_type_hints

__all__ = ["OPTIONS", "check_choice", "documented", "inherits_options"]

Class = TypeVar("Class", bound=type)

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

_ARGS = "\nArgs:\n"
_ENTRY = re.compile(r"^ {4}(\w+): ", re.MULTILINE)


def documented(kind: Class) -> Class:
    """Completes a class's docstring with the options of its signature that it does not describe itself, in the signature's order.

    They are described as by its base classes, else as in `OPTIONS`.

    Args:
        kind: a class with a docstring of Google's style; one without an `__init__` of its own is left as it is.
    """
    if not kind.__doc__ or "__init__" not in kind.__dict__:
        return kind
    text, own = _described(kind)
    names = [name for name in inspect.signature(kind.__dict__["__init__"]).parameters if name != "self"]
    for parent in kind.__mro__[1:]:
        own = {**_described(parent)[1], **own}
    shared = {name: f"    {name}: {OPTIONS[name]}" for name in names if name in OPTIONS}
    lines = [found for name in names if (found := own.get(name, shared.get(name)))]
    kind.__doc__ = f"{text.rstrip()}\n{_ARGS}" + "\n".join(lines) + "\n"
    return kind


def inherits_options(base: type, *, without: Sequence[str] = (), **defaults: Any) -> Callable[[Class], Class]:
    """Puts the options of `base` behind a class's own, in the place of its last parameter `**name`.

    `__init__` is then called with every one of them, given or by default, and hands them on in one piece.

    Args:
        base: whose options are taken, with their types and defaults.
        without: names of those that the class does not have.
        defaults: defaults that differ.
    """

    def decorate(kind: Class) -> Class:
        own_init = kind.__dict__["__init__"]
        own = list(inspect.signature(own_init).parameters.values())
        rest = own.pop()
        assert rest.kind is inspect.Parameter.VAR_KEYWORD
        taken = {parameter.name for parameter in own} | set(without)
        given = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        shared = [p.replace(default=defaults.get(p.name, p.default)) for p in given if p.name not in taken]
        assert set(defaults) <= {parameter.name for parameter in shared}
        signature = inspect.Signature([*own, *shared])
        types = {**get_type_hints(base.__init__), **get_type_hints(own_init)}  # type: ignore[misc]

        @functools.wraps(own_init)
        def init(self: Any, *args: Any, **options: Any) -> None:
            try:
                bound = signature.bind(self, *args, **options)
            except TypeError as error:
                raise TypeError(f"{kind.__name__}: {error}; allowed are {', '.join(signature.parameters)}") from None
            bound.apply_defaults()
            bound.arguments.pop("self")
            own_init(self, **bound.arguments)

        init.__signature__ = signature  # type: ignore[attr-defined]
        init.__annotations__ = {name: types[name] for name in signature.parameters if name in types} | {"return": None}
        kind.__init__ = init  # type: ignore[misc]
        return documented(kind)

    return decorate


def _described(kind: type) -> tuple[str, dict[str, str]]:
    """A docstring before its list of arguments, and the entries of that list by name."""
    text, _, args = inspect.cleandoc(kind.__doc__ or "").partition(_ARGS)
    starts = [match.start() for match in _ENTRY.finditer(args)]
    entries = [args[start:stop].rstrip() for start, stop in zip(starts, [*starts, len(args)][1:], strict=True)]
    return text, {entry.split(":", 1)[0].strip(): entry for entry in entries}


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
