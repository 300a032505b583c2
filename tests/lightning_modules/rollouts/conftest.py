"""The rows of this room's tests, written once."""

from __future__ import annotations

import pytest

from tests.lightning_modules.rollouts.cases import write_rows


@pytest.fixture(scope="session", autouse=True)
def rows(tmp_path_factory: pytest.TempPathFactory) -> None:
    write_rows(tmp_path_factory.mktemp("prompts"))
