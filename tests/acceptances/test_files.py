"""Attempts with files: checkpoints that are none, outputs that lie elsewhere than meant, records and caches of something else.

What is shown is what must be said, in one line that names the file, or what must lie there afterwards.
"""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fulgurite.commands.evaluate.command as evaluate_command
import fulgurite.commands.generate.file as generate_file
from fulgurite.commands.evaluate.report import draw
from fulgurite.commands.scaling import pictures
from fulgurite.commands.score.command import score
from fulgurite.data.playground import resolve_backbone
from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.likelihood import ModelScorer
from fulgurite.evaluation.runner.record_file import RecordFile, read_records
from fulgurite.evaluation.runner.writers import Writers
from fulgurite.evaluation.tasks import TASKS
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.generation.loading import load_for_generation
from tests.acceptances.said import csv_file, refusal, refused_by, rows_file
from tests.commands.landscape.test_command import changed, landscape
from tests.evaluation.runner.fakes import FakeBackend


def as_folder(file: Path) -> None:
    file.mkdir()


def as_text(file: Path) -> None:
    file.write_text("my notes\n")


def as_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("weights.txt", "none")


def as_list(file: Path) -> None:
    torch.save([1, 2], file)


def as_state(file: Path) -> None:
    torch.save({"network.weight": torch.ones(2)}, file)


def as_safetensors(file: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, file)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(as_folder, id="a folder"),
        pytest.param(lambda file: file.write_bytes(b""), id="an empty file"),
        pytest.param(as_text, id="a text"),
        pytest.param(as_zip, id="an archive of something else"),
        pytest.param(as_list, id="a list"),
        pytest.param(as_state, id="tensors without their module"),
        pytest.param(as_safetensors, id="safetensors under another name"),
    ],
)
def test_checkpoints(made: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "last.ckpt")
    line = refused_by(["generate", "--model", str(tmp_path / "last.ckpt"), "--prompt", "a"], capsys)
    assert "last.ckpt" in line


EMPTY = [
    pytest.param(["evaluate", "--tasks", "gsm8k", "--path", "builtin", "--model", "playground", "--out", ""], "--out is empty",
                 id="results of evaluate, which went into the current folder"),
    pytest.param(["scaling", "--counts", "c.csv", "--out", ""], "--out is empty", id="pictures of scaling"),
    pytest.param(["landscape", "--base", "playground", "--first", "a", "--rows", "builtin", "--out", ""], "--out is empty",
                 id="points of landscape"),
    pytest.param(["thresholds", "--out", ""], "--out is empty", id="runs of thresholds"),
    pytest.param(["control", "--model", "playground", "--out", ""], "--out is empty", id="figures of control"),
    pytest.param(["generate", "--model", "", "--prompt", "a"], "--model is empty", id="a model without a name"),
    pytest.param(["repair", "--write_prompts", ""], "--write_prompts is empty", id="templates of repair"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), EMPTY)
def test_an_empty_text_of_a_variable_that_is_not_set(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--out "$OUT"``: it meant the folder in which one stands."""
    monkeypatch.chdir(tmp_path)
    assert said in refused_by(words, capsys) and not list(tmp_path.iterdir())


FILES = [
    pytest.param(["control", "--model", "playground", "--out", "taken"], id="control, after all answers"),
    pytest.param(["scaling", "--counts", "counts.csv", "--out", "taken"], id="scaling, after all bootstraps"),
    pytest.param(["thresholds", "--out", "taken"], id="thresholds, after its plan"),
    pytest.param(["landscape", "--base", "playground", "--first", "a", "--rows", "builtin", "--out", "taken"], id="landscape"),
    pytest.param(["evaluate", "--tasks", "gsm8k", "--path", "builtin", "--model", "playground", "--out", "taken/below"],
                 id="a folder below a file"),
]  # fmt: skip


@pytest.mark.parametrize("words", FILES)
def test_a_file_where_a_folder_is_to_be(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate_command, "load_model", lambda *_: None)
    monkeypatch.setattr(evaluate_command, "in_process", lambda *_: Writers(FakeBackend(), None))
    csv_file(Path("counts.csv"), "model,size,instance,n,c\ns,1M,a,10,3\nl,2M,a,10,5\n")
    csv_file(Path("taken"), "mine\n")
    assert "taken" in refused_by(words, capsys) and Path("taken").read_text() == "mine\n"


RECORDS = [
    pytest.param('{"a": 1}\n', "line 2: a record without item, index", id="a record of something else, which was a traceback"),
    pytest.param('{"item": "a", "index": 0}\n{"item": "a", "index": 0}\n', "stands in line 2 already", id="a record twice"),
    pytest.param("\n", "line 2: damaged", id="an empty line in the middle"),
    pytest.param("[]\n", "line 2: no record", id="a list"),
    pytest.param("\ufeff{}\n", "line 2: a record without item", id="the mark of a byte order"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), RECORDS)
def test_records(text: str, said: str, tmp_path: Path) -> None:
    file, unique = tmp_path / "samples.jsonl", ("item", "index")
    with RecordFile(file, "samples", {}, unique):
        pass
    with file.open("a", encoding="utf-8") as stream:
        stream.write(text)
    before = file.read_bytes()
    assert said in refusal(lambda: RecordFile(file, "samples", {}, unique))
    assert said in refusal(lambda: read_records(file, unique)) and file.read_bytes() == before


def test_a_choice_key_twice_in_a_task_of_big_bench(tmp_path: Path) -> None:
    """Of two scores of one choice the last was taken."""
    text = '{"examples": [{"input": "Which?", "target_scores": {"a": 1, "b": 0, "a": 0}}]}'
    file = csv_file(tmp_path / "task.json", text)
    assert "the key 'a' stands twice" in refusal(lambda: items_of(TASKS["bigbench_choices"], file))


TABLES = [
    pytest.param("rows.json", json.dumps({"text": {"0": "a", "1": "b"}}).encode(), "an object with 0 lists",
                 id="what pandas' to_json writes"),
    pytest.param("rows.json", json.dumps({"train": [{"a": 1}], "test": [{"a": 2}]}).encode(), "an object with 2 lists",
                 id="two splits in one object"),
    pytest.param("rows.csv", b"text,label\n", "the file has no row", id="a header alone"),
    pytest.param("rows.csv", b"text\tlabel\nx\t1\n", "", id="tabs under the name of commas"),
    pytest.param("rows.jsonl.gz", b'{"text": "a"}\n', "not a whole gzip file", id="a name that says compressed"),
    pytest.param("rows.jsonl.gz", gzip.compress(b'{"text": "a"}\n') + b"more", "not a whole gzip file", id="more behind it"),
    pytest.param("rows.jsonl", "text: ä\n".encode("utf-16"), "line 1", id="a file of Windows' editor"),
    pytest.param("rows.parquet", b"PAR1" + b"\0" * 40, "not a whole parquet file", id="a parquet file without its end"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), TABLES)
def test_tables(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    if said:
        assert said in refusal(lambda: list(rows_of(tmp_path / name, owner="test")))
    else:
        (found,) = rows_of(tmp_path / name, owner="test")
        assert list(found[1]) == ["text\tlabel"], "one column, of which whoever needs two says so"


def answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a model: each prompt's own text."""
    tokenizer = SimpleNamespace(chat_template=None)
    monkeypatch.setattr(generate_file, "check_prompts", lambda *_: None)
    monkeypatch.setattr(
        generate_file, "generate_text", lambda model, tok, prompts, settings: [[p[-1].content] for p in prompts]
    )
    monkeypatch.setattr(
        "fulgurite.commands.generate.command.load_model",
        lambda *_: SimpleNamespace(model=None, tokenizer=tokenizer, conditions=None),
    )


def generated(folder: Path, source: str, *more: str) -> list[str]:
    return ["generate", "--model", "m", "--file", source, "--output", str(folder / "out.jsonl"), *more]


def test_an_output_that_is_another_name_of_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard link: the answers take its place, and the input stays."""
    from fulgurite.cli import main

    answered(monkeypatch)
    source = rows_file(tmp_path / "in.jsonl", [{"prompt": "a"}])
    os.link(source, tmp_path / "out.jsonl")
    before = Path(source).read_bytes()
    assert main(generated(tmp_path, source)) == 1 and Path(source).read_bytes() == before
    assert main(generated(tmp_path, source, "--overwrite", "true")) == 0
    assert Path(source).read_bytes() == before and "completion" in (tmp_path / "out.jsonl").read_text()


PROMPTS = [
    pytest.param({"messages": json.dumps([{"role": "user", "content": "Hi"}])}, "holds messages as a JSON text",
                 id="messages as a text, which was asked as it stands"),
    pytest.param({"prompt": "Hi", "system": "Be kind."}, "the column 'system' holds a text, which needs a chat template",
                 id="a system's text for a model of plain text, which was dropped"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "said"), PROMPTS)
def test_rows_to_answer(
    row: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(monkeypatch)
    assert said in refused_by(generated(tmp_path, rows_file(tmp_path / "in.jsonl", [row])), capsys)
    assert not (tmp_path / "out.jsonl").exists()


def test_instructions_of_control_that_are_empty_or_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty ones were left out without a word, and a list was asked as Python writes it."""
    from fulgurite.commands.control.command import _prompts

    file = rows_file(tmp_path / "a.jsonl", [{"instruction": text} for text in ("One?", "", None, "Two?")])
    assert _prompts(file, "instruction", "playground") == ["One?", "Two?"]
    assert "2 of 4 rows of" in capsys.readouterr().out
    file = rows_file(tmp_path / "b.jsonl", [{"instruction": [{"role": "user", "content": "Hi"}]}])
    assert "line 1: 'instruction' holds [{" in refusal(lambda: _prompts(file, "instruction", "playground"))


def test_a_picture_of_an_earlier_run_goes_where_this_one_has_none(tmp_path: Path) -> None:
    """It stood beside the new numbers as if it were theirs."""
    for name in ("results", "f", "instances", "predictions"):
        (tmp_path / f"{name}.png").write_bytes(b"old")
    draw([], tmp_path / "results.png")
    study: Any = SimpleNamespace(law=None, instances=None, held_out=(), predictions=())
    original = pictures._scores
    try:
        pictures._scores = lambda axes, study: None  # type: ignore[assignment]
        assert [file.name for file in pictures.draw(study, tmp_path, "size")] == ["pu.png"]
    finally:
        pictures._scores = original
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pu.png"]


def changed_configuration(folder: Path, **change: Any) -> str:
    place = Path(changed(folder, 1))
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **change}))
    return str(place)


def other_depth(folder: Path) -> str:
    """The playground's model with its last layer twice: every weight of the base has its partner."""
    from fulgurite.models import load_backbone

    model: Any = load_backbone(resolve_backbone("playground"), "causal_lm").model
    model.model.layers.append(model.model.layers[-1])
    model.config.num_hidden_layers += 1
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [*model.config.layer_types, model.config.layer_types[-1]]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    return str(folder)


def test_a_model_of_more_layers_in_a_landscape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The layers that the base does not have were left out, and the line led nowhere."""
    assert landscape(tmp_path / "out", "--first", other_depth(tmp_path / "deep")) == 1
    assert "and the base differ in" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_model_of_another_arithmetic_in_a_landscape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of one shape that another model computes with otherwise."""
    other = changed_configuration(tmp_path / "other", rms_norm_eps=0.1)
    assert landscape(tmp_path / "out", "--first", other) == 1
    assert "rms_norm_eps 0.1 instead of" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_points_without_a_finite_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were written as NaN, which is no JSON, and could be called the lowest."""
    import fulgurite.commands.landscape.command as command

    losses = iter([float("nan"), 2.0, 1.0])
    monkeypatch.setattr(command, "measure", lambda *_: SimpleNamespace(loss=next(losses)))
    assert landscape(tmp_path / "out", "--first", changed(tmp_path / "first", 1), "--points", "3") == 0
    said = capsys.readouterr().out
    assert "1 of 3 points have no finite loss" in said and "the lowest loss, 1.0000, is at a = 1" in said
    text = (tmp_path / "out" / "landscape.json").read_text()
    assert "NaN" not in text and [point["loss"] for point in json.loads(text)["points"]] == [None, 2.0, 1.0]


def test_rows_of_a_task_that_are_left_out_of_a_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to a tenth of them, in `emulate`, `plug-in` and `landscape`, without a word."""
    from fulgurite.commands.emulate.support import read_support
    from fulgurite.data.encoding.tokenizers import load_tokenizer

    good = [{"goal": f"go {i}", "sol1": "a", "sol2": "b", "label": 0} for i in range(12)]
    file = rows_file(tmp_path / "piqa.jsonl", [*good, {"goal": "go", "sol1": "a", "label": 0}])
    assert len(read_support("plug-in", load_tokenizer("playground"), file, "piqa")) == 12
    assert "plug-in: 1 of 13 rows were left out, the first: " in " ".join(capsys.readouterr().out.split())


def test_a_model_that_gives_nan_makes_no_choice() -> None:
    """Of choices that were all NaN the first one was taken, and called right where it was."""
    loaded = load_for_generation("playground")
    with torch.no_grad():
        next(p for name, p in loaded.model.named_parameters() if "mlp.gate_proj" in name).fill_(float("nan"))
    scorer = ModelScorer(loaded.model, loaded.tokenizer)
    assert "the model gives NaN" in refusal(lambda: list(scorer.score([("the film", [" is", " was"])])))


def test_a_folder_of_rewards_to_score(tmp_path: Path) -> None:
    """A model of text has no reward; its folder is refused before a row is read."""
    file = rows_file(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    (tmp_path / "empty").mkdir()
    assert "holds no config.json" in refusal(
        lambda: score(model=str(tmp_path / "empty"), file=file, output=str(tmp_path / "o.jsonl"))
    )
