"""CPODataModule: both stages from the same rows, what was controlled, cache keys, scales, and refusals."""

from __future__ import annotations

import json

import pytest

from fulgurite.data.conditions.objectives import Objectives
from fulgurite.data.playground.rows.levels import level_rows
from fulgurite.datamodules import CPODataModule


def data(tmp_path, stage="cdpo", **options):
    defaults = {"path": "builtin", "tokenizer": "playground", "max_length": 256, "limit_train": 40, "batch_size": 2}
    return CPODataModule(stage, **{**defaults, "cache_dir": str(tmp_path / "cache"), **options})


def rows_file(tmp_path, rows, name="rows.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / name)


def texts(module, split="val"):
    return [module.load_tokenizer().decode(ids) for ids, _ in module.sample_prompts(40)]


@pytest.mark.slow
def test_both_stages_put_tokens_in_front_of_the_instruction_inside_the_users_turn(tmp_path):
    for stage in ("cpsft", "cdpo"):
        module = data(tmp_path, stage, control="all")
        module.setup("fit")
        assert module.conditions == Objectives({"helpfulness": [1, 5], "honesty": [1, 5], "harmlessness": [0, 1]})
        found = texts(module)
        assert sum("<|user|>\n<helpfulness:" in text for text in found) >= 30
        assert all("<harmlessness:" in text for text in found)
        batch = next(iter(module.train_dataloader()))
        assert int(batch["tokens_in_window"]) > 0
        assert module.task_type == ("causal_lm" if stage == "cpsft" else "preference")
    assert module.objective_kind == "pairs"


def test_conditions_are_those_that_training_rows_were_controlled_by(tmp_path):
    feedback = level_rows("train", count=30)
    for row in feedback:
        for answer in row["responses"]:
            del answer["Harmlessness_Rating"]
    module = data(tmp_path, path=rows_file(tmp_path, feedback), limit_train=None, val_fraction=0.2)
    assert module.conditions is None
    module.setup("fit")
    assert list(module.conditions) == ["helpfulness", "honesty"], (
        "no answer is rated for harmlessness: nobody learns it"
    )
    plain = data(tmp_path, control="none")
    plain.setup("fit")
    assert plain.conditions is None and all("<h" not in text for text in texts(plain))


@pytest.mark.slow
def test_what_decides_the_rows_is_part_of_the_cache_key(tmp_path):
    options = [
        {}, {"seed": 1}, {"spelling": "legacy"}, {"control": "all"}, {"conditions_per_row": 2},
        {"objective_weights": {"honesty": 2.0}}, {"distance_weights": {"honesty": 2.0}},
        {"objectives": {"honesty": [1, 5]}, "on_bad_row": "skip"}, {"buckets": {"honesty=5": 30, "none": 30}},
    ]  # fmt: skip
    folder = tmp_path / "cache" / "preferences"
    for number, option in enumerate(options, 1):
        module = data(tmp_path, val_fraction=0.0, path=rows_file(tmp_path, level_rows("train", count=20)), **option)
        module.setup("fit")
        assert len(list(folder.glob("*.safetensors"))) == number, option
    module = data(tmp_path, val_fraction=0.0, path=str(tmp_path / "rows.jsonl"))
    module.setup("fit")
    assert len(list(folder.glob("*.safetensors"))) == len(options), "the first is read again"


def test_buckets_hold_for_training_rows_and_no_instruction_is_on_both_sides(tmp_path):
    path = rows_file(tmp_path, level_rows("train", count=80))
    module = data(
        tmp_path, path=path, limit_train=None, val_fraction=0.25, buckets={"harmlessness=0": 120, "none": 120}
    )
    module.setup("fit")
    assert set(module.tag_names) == {"harmlessness", "none"}
    loaders = [module.fixed_order_dataloader(split) for split in ("train", "val")]
    pairs = [sum(len(batch["pairs"]) for batch in loader) for loader in loaders]
    assert 240 <= sum(pairs) < 252 and pairs[1] > 20
    decode = module.load_tokenizer().decode
    questions = []
    for loader in loaders:
        found = set()
        for batch in loader:
            ids = batch["input_ids"][0].tolist()
            found |= {piece.split("<|end|>")[0] for piece in decode(ids).split("<|user|>\n")[1:]}
        questions.append({question.replace("<harmlessness:0> ", "") for question in found})
    assert len(questions[0]) > 20 and len(questions[1]) > 4 and not questions[0] & questions[1]


def test_buckets_that_no_row_fills_say_so(tmp_path):
    rows = [{"instruction": f"i{i}", "responses": [{"response": r, "honesty": 3} for r in "ab"]} for i in range(4)]
    with pytest.raises(
        ValueError, match=r"no pair of 4 rows is left under the conditions .*\(buckets honesty=5, none\)"
    ):
        data(tmp_path, path=rows_file(tmp_path, rows), buckets={"honesty=5": 3, "none": 2}).setup("fit")


def test_a_scale_that_is_wrong_says_what_was_found(tmp_path):
    with pytest.raises(ValueError, match="rating outside its scale"):
        data(tmp_path, objectives={"helpfulness": [6, 9]}).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "dpo"}, "allowed are stage 'cpsft' or 'cdpo'"),
        ({"control": "some"}, "control 'random', 'all', 'none'"),
        ({"conditions_per_row": 0}, "conditions_per_row from 1"),
        ({"stage": "cpsft", "buckets": {"none": 3}}, "leave them out"),
        ({"buckets": {}}, "a number of pairs from 1"),
        ({"buckets": {"honesty=5": 0}}, "a number of pairs from 1"),
        ({"buckets": {"humour=5": 10}}, "'humour' is no objective"),
        ({"buckets": {"honesty=7": 10}}, "its scale goes from 1 to 5"),
        ({"schema": "alpaca"}, "allowed are auto, cpo, completions"),
        ({"objective_weights": {"honesty": -1.0}}, "CPODataModule: objective_weights"),
        ({"token_budget": 8}, "raise it, or lower max_length"),
    ],
)
def test_refusals(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        data(tmp_path, **options)


def test_only_pairs_have_a_reference(tmp_path):
    with pytest.raises(ValueError, match="use stage 'cdpo'"):
        data(tmp_path, "cpsft").fixed_order_dataloader("train")
