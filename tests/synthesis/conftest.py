"""Records are not forced onto the disk here, which takes longer than all else; tests/evaluation/runner looks at that."""

import os
from collections.abc import Iterator

import pytest

from fulgurite.evaluation.runner import record_file


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Quick:
        """The module os with an fsync that does nothing."""

        def __getattr__(self, name: str) -> object:
            return (lambda handle: None) if name == "fsync" else getattr(os, name)

    monkeypatch.setattr(record_file, "os", Quick())
    yield
