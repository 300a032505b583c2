"""`fulgurite synthesize` from the command line: whole runs, dry runs, rows that train, one sentence for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import fulgurite.commands.synthesize.command as command
from fulgurite.cli import main
from fulgurite.generation.protocol import SamplingSettings
from fulgurite.synthesis import read_recipe
from fulgurite.synthesis.authors import Author
from fulgurite.synthesis.recipe import OWN_RECIPES
from tests.synthesis.fakes import Table
from tests.synthesis.trees.test_growing import problems, recipe_of, scripted, scripts


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[Table]:
    """In place of models: scripted ones."""
    made: list[Table] = []

    def open_authors(options: Any, seed: int) -> dict[str, Author]:
        rule = scripted(scripts(12, 4))
        found = {}
        for name, given in options.items():
            made.append(Table(name, rule))
            found[name] = Author(name, made[-1], SamplingSettings(64, 0.8, seed=seed), given.price, name)
        return found

    monkeypatch.setattr(command, "open_authors", open_authors)
    return made


def words(folder: Path, *more: str) -> list[str]:
    recipe_of(folder, problems(12))
    return ["synthesize", str(folder / "recipe.yaml"), *more]


def test_a_whole_run_and_one_that_is_all_there(
    tmp_path: Path, tables: list[Table], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(words(tmp_path, "--out", str(out), "--limit", "6")) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "forecast for all 12 rows, from these 6" in said and "trees by turns" in said and "tokens of prompts" in said
    found = json.loads((out / "results.json").read_text())
    assert found["steps"]["trees"]["rows"] == 6 and found["waiting"] == {} and found["stopped"] is None
    assert found["costs"]["all"]["requests"] == sum(len(table.asked) for table in tables)
    assert found["files"]["pair"]["rows"] == len((out / "pair.jsonl").read_text().splitlines()) > 3
    assert set(found["letters"]["pair"]) >= {"trajectory", "chosen", "rejected"}
    assert (out / "results.png").read_bytes()[:4] == b"\x89PNG"
    before = (out / "pair.jsonl").read_bytes()
    tables.clear()
    assert main(words(tmp_path, "--out", str(out), "--limit", "6")) == 0
    assert "0 answers are new" in capsys.readouterr().out and all(table.asked == [] for table in tables)
    assert (out / "pair.jsonl").read_bytes() == before
    assert main(words(tmp_path, "--out", str(out))) == 0
    assert (out / "pair.jsonl").read_bytes().startswith(before), "more rows use what is there"


def test_a_dry_run_asks_nothing(tmp_path: Path, tables: list[Table], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, "--dry_run")) == 0
    said = capsys.readouterr().out
    assert all(table.asked == [] for table in tables) and sorted(p.name for p in tmp_path.iterdir()) == [
        "recipe.yaml",
        "rows.jsonl",
    ]
    for part in (
        "turn 1/right/0 actor, asked of actor",
        "asked of third",
        "right/gold",
        "turn 1/critique, asked of critic",
    ):
        assert part in said
    # A turn: three draws on each of three rungs and with a hint, two wrong actions, a critique behind the first four turns.
    assert f"{12 * (5 * (3 * 4 + 2) + 4)} answers" in said.replace(",", "")


def test_recipe_and_prompts_to_edit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "ultrainteract", "--write", str(tmp_path)]) == 0
    assert read_recipe(str(tmp_path / "ultrainteract.yaml")).steps[-1].name == "trees"
    assert (tmp_path / "prompts" / "tree_action.jinja").is_file()
    assert main(["synthesize", "ultrainteract", "--write", str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_every_recipe_of_ours_is_read() -> None:
    names = sorted(file.stem for file in OWN_RECIPES.glob("*.yaml"))
    assert names == ["ultrachat2", "ultrafeedback", "ultrainteract", "ultralink_agnostic", "ultralink_specific"]
    for name in names:
        recipe = read_recipe(name)
        head = (OWN_RECIPES / f"{name}.yaml").read_text()
        assert recipe.steps and f"fulgurite synthesize {name} --path builtin --limit" in head


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": []}, "has no steps"),
        ({"steps": [{"do": "tree"}]}, "does 'tree'; allowed are agree, balance, complicate, .* Did you mean 'trees'"),
        ({"steps": [{"do": "trees"}]}, "step trees of .*required: actor"),
        ({"steps": [{"do": "filter", "column": "x"}]}, "filter has no rule"),
        ({"steps": [{"do": "filter", "leest": 3}]}, "leest"),
        ({"steps": [{"do": "filter", "least": "many"}]}, "least"),
        ({"steps": [{"do": "decontaminate", "against": []}]}, "against is empty"),
        ({"steps": [{"do": "pair", "rules": ["best"]}]}, "no rule 'best'; allowed are all, zephyr"),
        ({"step": []}, "has a part 'step'; allowed are rows, models"),
        ({"budget": {"money": -1}}, "budget.money=-1"),
        ({"format": "csv"}, "format='csv'"),
        ({"seed": "x"}, "seed='x'"),
        ({"models": {"actor": {}}}, "the model 'actor' needs either model"),
        ({"models": {"actor": {"server": "http://x/v1"}}}, "no served_model"),
        ({"rows": {"path": "nowhere.jsonl"}}, "nowhere.jsonl"),
    ],
)
def test_one_sentence_for_a_mistake(
    change: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    recipe_of(tmp_path, problems(2))
    given = {**yaml.safe_load((tmp_path / "recipe.yaml").read_text()), **change}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    assert main(["synthesize", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert re.search(said, told) and told.count("\n") == 1, told


def test_a_model_that_the_recipe_lacks(tmp_path: Path, tables: list[Table], capsys: pytest.CaptureFixture[str]) -> None:
    recipe_of(tmp_path, problems(2), critic="nobody")
    assert main(["synthesize", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]) == 1
    assert "names the model 'nobody'; the recipe's models are: actor, second" in capsys.readouterr().err
    assert main(["synthesize", "ultrainterakt", "--out", str(tmp_path / "out")]) == 1
    assert "did you mean 'ultrainteract'" in capsys.readouterr().err


@pytest.mark.slow
def test_what_comes_out_trains(tmp_path: Path, tables: list[Table], capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps of SFT, of preferences and of a reward model on the rows, read in strict mode."""
    out = tmp_path / "out"
    assert main(words(tmp_path, "--out", str(out))) == 0, capsys.readouterr()
    for module, data, file in (
        ("SFTModule", "UltraInteractDataModule", "sft.jsonl"),
        ("PreferenceModule", "UltraInteractPairDataModule", "pair.jsonl"),
        ("RewardModule", "UltraInteractPairDataModule", "pair.jsonl"),
    ):
        fit = [
            "fit",
            "--model",
            module,
            "--model.backbone",
            "playground",
            "--data",
            data,
            "--data.path",
            str(out / file),
        ]
        fit += [
            "--data.on_bad_row",
            "error",
            "--data.batch_size",
            "2",
            "--data.max_length",
            "256",
            "--data.val_fraction",
            "0",
        ]
        fit += ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
        fit += ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path / module)]
        assert main(fit) == 0, capsys.readouterr()
        assert list((tmp_path / module).rglob("*.ckpt")), module


@pytest.mark.slow
def test_the_playground_as_all_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Offline, from the recipes as they stand: few answers can be used, and every one of them is accounted for."""
    for name, small in (
        ("ultrainteract", {"turns": 2, "tries": 2, "wrong_tries": 1}),
        ("ultrafeedback", {}),
        ("ultrachat2", {}),
    ):
        given = yaml.safe_load((OWN_RECIPES / f"{name}.yaml").read_text())
        for step in given["steps"]:
            step |= small if step["do"] == "trees" else {"retries": 0} if "retries" in step else {}
        for model in given["models"].values():
            model["max_new_tokens"] = 12
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
        out = tmp_path / name
        assert (
            main(
                [
                    "synthesize",
                    str(tmp_path / f"{name}.yaml"),
                    "--limit",
                    "6" if name == "ultrachat2" else "2",
                    "--out",
                    str(out),
                ]
            )
            == 0
        ), capsys.readouterr()
        found = json.loads((out / "results.json").read_text())
        assert (
            found["costs"]["all"]["estimated"] == 0 and found["costs"]["all"]["prompt"] > 0 and found["waiting"] == {}
        )
    assert len((tmp_path / "ultrafeedback" / "ultrafeedback.jsonl").read_text().splitlines()) == 2
