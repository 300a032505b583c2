"""What is said on the console: tables and lines of callbacks and commands, and quiet logging while Lightning runs.

Tables are drawn by rich on a terminal. Elsewhere the same tables come without colours, so that files hold no
control codes.
"""

import logging
import shlex
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rich
from rich.console import Console
from rich.table import Table

__all__ = ["command_line", "metrics_table", "quiet_lightning", "say", "shortest"]

_NOISE = (
    "💡",
    "TPU available",
    "HPU available",
    "IPU available",
    "You are using the plain ModelCheckpoint",
    "`weights_only` was not set",  # said on saving, where it means "save the optimizer too"
    "Loading `train_dataloader` to estimate",
)
_WARNINGS = (
    r".*does not have many workers.*",
    r".*treespec, LeafSpec.*",
    r".*tensorboardX.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*The dirpath has changed from .*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*Found .* module\(s\) in eval mode at the start of training.*",
    r".*Trying to infer the `batch_size` from an ambiguous collection.*",
    r".*gradient_checkpointing.* is deprecated and will be removed.*",  # transformers 5 renamed what it still has
)


class _NoAdverts(logging.Filter):
    """Drops lines that advertise or that state what is not there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown.

        Args:
            record: the record
        """
        return not record.getMessage().lstrip().startswith(_NOISE)


class _Stderr(logging.StreamHandler):
    """Writes to what sys.stderr is at that moment: while a progress bar is drawn, that is a place above the bar."""

    @property
    def stream(self) -> Any:
        """The stream, looked up anew each time."""
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        """Nothing: the stream is not kept."""


def quiet_lightning() -> None:
    """Takes adverts and idle warnings off the console, and keeps log lines off the progress bar's; asking again changes nothing."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        for place, handler in enumerate(logger.handlers):
            if type(handler) is logging.StreamHandler and handler.stream in (sys.stderr, sys.__stderr__):
                other = _Stderr()
                other.setFormatter(handler.formatter)
                other.setLevel(handler.level)
                logger.handlers[place] = other
        for target in [logger, *logger.handlers]:
            if not any(isinstance(known, _NoAdverts) for known in target.filters):
                target.addFilter(_NoAdverts())
    # A filter of a logger does not see what its children hand up, so the modules that speak get their own.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("lightning.pytorch.", "lightning.fabric.")):
            child = logging.getLogger(name)
            if not any(isinstance(known, _NoAdverts) for known in child.filters):
                child.addFilter(_NoAdverts())
    for pattern in _WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)


def say(*parts: object) -> None:
    """Prints tables and lines, on a terminal with colours.

    They go through rich's own console, which Lightning draws its bars on: lines of a second one would be overwritten by a bar.

    Args:
        parts: strings and rich renderables
    """
    console = rich.get_console()
    if not console.is_terminal:
        # A table cut at 80 columns is of no use in a file.
        console = Console(width=160, no_color=True)
    for part in parts:
        if isinstance(part, str):
            console.print(part, highlight=False, markup=False, soft_wrap=True)
        else:
            console.print(part)


def metrics_table(title: str, values: Mapping[str, float]) -> Table:
    """A table of metrics.

    Args:
        title: its headline
        values: metrics by name
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in values.items():
        table.add_row(name, f"{value:.4f}")
    return table


def command_line(*words: str) -> str:
    """A command of this program as one can type it, with quotes where a word has spaces or signs that the shell reads.

    Args:
        words: what stands after `fulgurite`
    """
    return shlex.join(["fulgurite", *words])


def shortest(path: str | Path) -> str:
    """A path as one would type it here: relative where that is shorter.

    Args:
        path: a path
    """
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except (ValueError, RuntimeError, OSError):  # elsewhere, or links that lead to each other
        return str(path)
