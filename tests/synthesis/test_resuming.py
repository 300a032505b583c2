"""A run that was killed goes on where it was stopped: a stand-in server counts what it is asked for."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fulgurite.cli import main
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.runner.plan import text_hash
from fulgurite.synthesis import Ran, read_recipe, run_recipe
from fulgurite.synthesis.authors import open_authors
from fulgurite.synthesis.prompts import templates_of
from fulgurite.synthesis.sources import first_rows
from tests.forking import popen
from tests.forking.killing import killed_at, size_of
from tests.generation.server.local_server import Seen, answer, serving
from tests.synthesis.fakes import written

STEP = {"name": "trees", "do": "trees", "actor": "actor", "critic": "critic", "wrong": ["weak"], "turns": 2, "tries": 3,
        "wrong_tries": 1}  # fmt: skip


def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> dict[str, Any]:
    """Says what prompt and seed decide, as a model does."""
    text = body["messages"][0]["content"]
    target = int(re.findall(r"What is (\d+) \+ 90", text)[0]) + 90
    if body["model"] == "critic":
        return answer(path, body, ["Add once more."])
    said = 0 if body["model"] == "weak" else target if body["seed"] % 3 else 1
    return answer(path, body, [f"Seed {body['seed']}. Answer: {said}"])


def recipe_at(seen: Seen, folder: Path) -> str:
    models = {
        name: {"server": seen.url, "served_model": name, "concurrency": 4, "price": {"prompt": 1.0, "answer": 2.0}}
        for name in ("actor", "weak", "critic")
    }
    rows = [{"id": f"r{i}", "instruction": f"What is {i} + 90?", "answer": str(i + 90)} for i in range(4)]
    folder.mkdir(exist_ok=True)
    written(folder, {"models": models, "steps": [STEP]}, rows)
    return str(folder / "recipe.yaml")


def whole_lines(file: Path) -> int:
    """Records that stand there whole, without the header."""
    return max(0, file.read_bytes().count(b"\n") - 1)


def run_at(recipe: str, out: Path) -> Ran:
    """The recipe with its servers, without tables and picture."""
    what = read_recipe(recipe)
    rows, count, _ = first_rows(what.rows, None, "few")
    how = How(seconds=5.0)
    return run_recipe(what, (rows, count), open_authors(what.models, what.seed), templates_of(), out, how, silent=True)


@pytest.mark.slow
def test_cut_at_ten_places_nothing_is_asked_twice(tmp_path: Path) -> None:
    with serving(handle) as seen:
        recipe = recipe_at(seen, tmp_path / "recipe")
        whole = run_at(recipe, tmp_path / "whole")
        asked, spent = len(seen.requests), whole.account.spent
        assert asked == whole.new == whole_lines(tmp_path / "whole" / "steps" / "trees.jsonl") > 20
        assert (spent.prompt, spent.answer, spent.estimated) == (3 * asked, 2 * asked, 0), "what the server counted"
        assert spent.money == pytest.approx((3 * asked + 2 * 2 * asked) / 1e6)
        draw = random.Random(0)
        for number in range(10):
            out = tmp_path / f"cut {number}"
            shutil.copytree(tmp_path / "whole", out)
            for name in ("trees.jsonl", "trees.verdicts.jsonl"):
                file = out / "steps" / name
                data = file.read_bytes()
                file.write_bytes(data[: draw.randint(0, len(data))])
            for file in out.glob("*.jsonl"):
                file.unlink()
            left = whole_lines(out / "steps" / "trees.jsonl")
            before = len(seen.requests)
            assert run_at(recipe, out).new == len(seen.requests) - before == asked - left, number
            for name in ("pair.jsonl", "sft.jsonl"):
                assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_killed_at_ten_moments_nothing_on_the_disk_is_asked_for_again(tmp_path: Path) -> None:
    """One run, killed ten times: the server counts, and the rows are those of a run that nobody killed."""
    with serving(handle) as seen:
        recipe = recipe_at(seen, tmp_path / "recipe")
        whole = run_at(recipe, tmp_path / "whole")
        expected = sorted(map(requested, seen.bodies()))
        assert len(expected) == len(set(expected)) == whole.new
        out = tmp_path / "out"
        file = out / "steps" / "trees.jsonl"
        size = size_of(tmp_path / "whole" / "steps" / "trees.jsonl")
        kept: set[str] = set()
        for number in range(10):
            before = len(seen.requests)
            killed_at(lambda: run_at(recipe, out), file, size * (number + 1) // 12)
            asked = set(map(requested, seen.bodies()[before:]))
            assert not asked & kept, number
            records = [json.loads(line) for line in file.read_bytes().split(b"\n")[1:-1]]
            kept = {f"{record['model']} {record['seed'] % 2**31} {record['prompt']}" for record in records}
            assert len(asked - kept) <= 4, "only what was under way is lost"
        before = len(seen.requests)
        run_at(recipe, out)
        assert not set(map(requested, seen.bodies()[before:])) & kept
        assert set(map(requested, seen.bodies())) == set(expected)
        for name in ("pair.jsonl", "sft.jsonl"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def requested(body: dict[str, Any]) -> str:
    """A request as the records have it."""
    return f"{body['model']} {body['seed']} {text_hash(body['messages'])}"


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda *given: (time.sleep(0.05), handle(*given))[1]) as seen:
        recipe = recipe_at(seen, tmp_path / "recipe")
        words = ["synthesize", recipe, "--out", str(tmp_path / "out")]
        process = popen(["-m", "fulgurite", *words])
        end = time.monotonic() + 120
        while len(seen.requests) < 12 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        kept = whole_lines(tmp_path / "out" / "steps" / "trees.jsonl")
        first = len(seen.requests)
        assert 12 <= first <= kept + 4 + 1, "only what was under way is lost"
        assert main(words) == 0, capsys.readouterr()
        whole = whole_lines(tmp_path / "out" / "steps" / "trees.jsonl")
        assert len(seen.requests) - first == whole - kept
