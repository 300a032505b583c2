"""`RowFiles`: the files of a data module, which of them hold which split, and what of them a cache depends on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fulgurite.data.sources.locate import RowSource, find_sources, short_name

__all__ = ["Part", "RowFiles", "SplitRows", "tell_shared"]

_log = logging.getLogger(__name__)

Part = Literal["all", "train", "held out"]


@dataclass(frozen=True)
class SplitRows:
    """Where the rows of a split are.

    Attributes:
        sources: What to read; empty where there is no such split.
        part: Which of their rows belong to it: all; those left for training; or those held out for validation.
    """

    sources: list[RowSource]
    part: Part = "all"


def tell_shared(owner: str, training: Sequence[str], given: Mapping[str, str | None]) -> None:
    """Says that rows to validate or test on are rows that are trained on, where one file was given for both.

    Args:
        owner: what messages call the data module.
        training: paths of the training rows.
        given: by split, the path that was given for it; a folder may hold a file of its own for each split.
    """
    files = {Path(path).expanduser().resolve() for path in training if Path(path).expanduser().is_file()}
    for split, path in given.items():
        if path is not None and Path(path).expanduser().resolve() in files:
            _log.warning(
                "%s: the %s rows are the training rows, %s; their figures say nothing of new rows", owner, split, path
            )


class RowFiles:
    """The files of a data module by split.

    Validation rows are those of `val_path`, else those that the paths have of their own, else a part of the training rows. The
    sources of a path carry its short name as their group, or the whole path where two short names are equal.

    Args:
        paths: a hub id, file, folder, or "builtin", or several of these.
        owner: what messages call the data module.
        builtin: schema of the playground's rows.
        revision: commit of the hub's data sets; None takes the newest.
        val_path: file or folder of the validation rows.
        test_path: file or folder of the test rows.
        val_fraction: share of the training rows that validate where there are no others; 0 for none.
        use: "sft" or "prefs": which of several kinds of files or splits is meant.
        choose: leaves out sources that need not be read.
    """

    def __init__(
        self,
        paths: str | Sequence[str] | None,
        *,
        owner: str,
        builtin: str,
        revision: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        val_fraction: float = 0.0,
        use: str = "sft",
        choose: Callable[[list[RowSource]], list[RowSource]] = lambda sources: sources,
    ) -> None:
        given = [paths] if isinstance(paths, str) or paths is None else list(paths)
        self.paths = [path for path in given if path]
        if len(self.paths) < len(given) or not given:
            raise ValueError(f"{owner}: no path was given; give a hub id, a file, a folder, or 'builtin'")
        if not 0.0 <= val_fraction < 1.0:
            raise ValueError(f"{owner}: val_fraction is {val_fraction}; allowed is 0 up to, not including, 1")
        self.owner, self.builtin, self.revision, self.use = owner, builtin, revision, use
        self.given = {"val": val_path, "test": test_path}
        self.val_fraction = val_fraction
        self.choose = choose
        tell_shared(owner, self.paths, self.given)
        self._sources: dict[str, list[RowSource]] = {}
        self._fingerprints: dict[str, str] = {}

    def split(self, split: str) -> SplitRows:
        """Where the rows of a split are.

        Args:
            split: "train", "val" or "test".
        """
        if split == "test":
            return SplitRows(self.sources("test"))
        own = self.val_fraction == 0 or self.validates()
        if split == "train":
            return SplitRows(self.sources("train"), "all" if own else "train")
        return SplitRows(self.sources("val")) if own else SplitRows(self.sources("train"), "held out")

    def validates(self) -> bool:
        """Whether there are validation rows of their own."""
        return bool(self.sources("val"))

    def sources(self, split: str) -> list[RowSource]:
        """The sources of a split, whatever part of their rows belongs to it; they are looked for once.

        Args:
            split: "train", "val" or "test".
        """
        if split not in self._sources:
            self._sources[split] = self.choose(self._found(split))
        return self._sources[split]

    def _found(self, split: str) -> list[RowSource]:
        given = self.given.get(split)
        short = [short_name(path) for path in self.paths]
        found = []
        for path in self.paths if given is None else [given]:
            name = short_name(path)
            for source in find_sources(
                path,
                split,
                owner=self.owner,
                builtin=self.builtin,
                revision=self.revision,
                only_split=given is not None,
                use=self.use,
            ):
                found.append(replace(source, group=name if short.count(name) < 2 else path))
        return found

    def identity(self, sources: Sequence[RowSource]) -> list[list[str]]:
        """Name, group and fingerprint of each source: what a cache of their rows depends on; each file is hashed once.

        Args:
            sources: some of these files.
        """
        for source in sources:
            if source.name not in self._fingerprints:
                self._fingerprints[source.name] = source.fingerprint()
        return [[Path(source.name).name, source.group, self._fingerprints[source.name]] for source in sources]
