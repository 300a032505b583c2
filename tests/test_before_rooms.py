"""What the code before the move into rooms wrote is read by the code after it, to the same values.

tests/fixtures/before_rooms holds a small one of each kind; expected.json there holds what that code said of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.before_rooms import adapters as folders
from tests.before_rooms import caches, runs, verbs
from tests.before_rooms.comparing import Values, copy, differences, names

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "before_rooms"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable copy of the fixtures."""
    monkeypatch.setenv("FULGURITE_CACHE", str(tmp_path / "cache"))
    return copy(FIXTURES, tmp_path / "before_rooms")


def check(found: Values, part: str, name: str | None = None) -> None:
    expected = EXPECTED[part] if name is None else EXPECTED[part][name]
    assert differences(json.loads(json.dumps(found)), expected) == []


@pytest.mark.parametrize("name", names(FIXTURES / "runs"))
def test_checkpoints_load_to_the_same_outputs(folder: Path, name: str) -> None:
    check(runs.checkpoint(folder, name), "checkpoint", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", names(FIXTURES / "runs"))
def test_runs_validate_to_the_same_metrics(folder: Path, name: str) -> None:
    check(runs.validate(folder, name), "validate", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", names(FIXTURES / "runs"))
def test_runs_can_be_resumed(folder: Path, name: str) -> None:
    """As many figures as before, all finite. Not the same ones: a run that max_steps ended within an epoch goes on with the rest
    of that epoch now, which the code that made these checkpoints left out.
    """
    expected = {key: value for key, value in EXPECTED["resume"][name].items() if not runs.of_the_machine(key)}
    found = runs.resume(folder, name)
    assert expected and set(expected) <= set(found)
    for key, values in expected.items():
        assert len(found[key]) == len(values) and all(math.isfinite(value) for value in found[key])


@pytest.mark.parametrize("name", names(FIXTURES / "adapters"))
def test_adapter_folders_load_to_the_same_outputs(folder: Path, name: str) -> None:
    check(folders.adapter(folder, name), "adapter", name)


@pytest.mark.parametrize("name", names(FIXTURES / "exports"))
def test_exports_say_the_same(folder: Path, name: str) -> None:
    check(folders.exported(folder, name), "exported", name)


@pytest.mark.parametrize("name", [name for name in names(FIXTURES / "caches") if name != "reference"])
def test_caches_give_the_same_batches(folder: Path, name: str) -> None:
    """ "hit" is left out: an entry of another format is made anew, beside the old one, which stays as it is."""
    expected = EXPECTED["cache"][name]
    found = caches.cache(folder, name, expected["tags"])
    assert differences(json.loads(json.dumps({**found, "hit": None})), {**expected, "hit": None}) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "function"),
    [
        ("reference", caches.reference),
        ("generated", verbs.generated),
        ("scored", verbs.scored),
        ("thresholds", verbs.thresholds),
        ("control", verbs.control),
        ("predicted", verbs.predicted),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_verbs_left(folder: Path, part: str, function: Callable[[Path], Values]) -> None:
    check(function(folder), part)
