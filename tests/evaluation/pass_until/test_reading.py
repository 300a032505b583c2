"""Counts from files and from folders of `fulgurite evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fulgurite.evaluation.pass_until.counts import table_of
from fulgurite.evaluation.pass_until.reading import read_counts, read_size

HEAD = "model,size,instance,n,c\n"


def written(folder: Path, text: str, name: str = "counts.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_csv_and_jsonl_give_the_same(tmp_path):
    csv = written(tmp_path, "model,size,instance,n,c,r,cap,loss\ns,70M,a,10,3,,,2.5\nl,1.4B,a,7,5,5,100,\n")
    rows = [
        {"model": "s", "size": 70_000_000, "instance": "a", "n": 10, "c": 3, "loss": 2.5},
        {"model": "l", "size": "1.4B", "instance": "a", "n": 7, "c": 5.0, "r": 5, "cap": 100},
    ]
    jsonl = written(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n", "counts.jsonl")
    left, right = ([(*vars(row).values(),)[:-1] for row in read_counts(file)] for file in (csv, jsonl))
    assert left == right and left[1][:7] == ("l", 1.4e9, "a", 7, 5, 5, 100)


def test_own_names_of_columns_sizes_compute_and_chosen_models(tmp_path):
    file = written(tmp_path, "Model,idx,Num,Good,compute\nx_1,a,10,1,1e18\nx_2,a,10,2,3e18\ny,a,9,3,2e18\n")
    columns = {"model": "Model", "instance": "idx", "n": "Num", "c": "Good"}
    sized = read_counts(file, columns, {"x_1": 5.0, "x_2": 6.0}, models=["x_*"])
    assert [(row.model, row.size, row.c) for row in sized] == [("x_1", 5.0, 1), ("x_2", 6.0, 2)]
    assert [row.size for row in read_counts(file, columns, by="compute")] == [1e18, 3e18, 2e18]


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "the file has no row"),
        ("model,size,instance,c\nm,1,a,1\n", "lacks n; it has model, size, instance, c"),
        (HEAD + "m,1,a,ten,3\n", "line 2: n='ten' was given; needed is a whole number"),
        (HEAD + "m,1,a,10,2.5\n", "line 2: c='2.5'"),
        (HEAD + "m,1,a,10,nan\n", "line 2: c='nan'"),
        (HEAD + "m,1,a,10,\n", "line 2: c=None"),
        (HEAD + "m,,a,10,3\n", "m has no size; add the column, name it with --columns, or give --sizes"),
        (HEAD + "m,big,a,10,3\n", "needed is a number, such as 1.4B"),
        ("model,size,instance,n,c,r\nm,1,a,10,2,2\n", "r=2 without a cap"),
    ],
)
def test_bad_csv(tmp_path, text, told):
    with pytest.raises(ValueError, match=told.replace("(", r"\(")):
        read_counts(written(tmp_path, text))


def test_other_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file; give a \.csv or \.jsonl"):
        read_counts(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="line 1: not valid JSON"):
        read_counts(written(tmp_path, "{", "a.jsonl"))
    with pytest.raises(ValueError, match="line 1: list was found"):
        read_counts(written(tmp_path, "[]", "a.jsonl"))
    with pytest.raises(ValueError, match="columns modell were given"):
        read_counts(written(tmp_path, HEAD + "m,1,a,10,3\n"), {"modell": "x"})


def run_folder(
    folder: Path, name: str, marks: dict[str, list[float]], temperature: float = 1.0, grader: str = "1"
) -> Path:
    """What `fulgurite evaluate --out FOLDER` leaves of one task, as far as counts need it."""
    place = folder / name / "gsm8k"
    place.mkdir(parents=True)
    settings = {"temperature": temperature, "n": 1, "seed": 0, "max_new_tokens": 9}
    identity = {
        "task": "gsm8k",
        "version": 1,
        "shots": 0,
        "writer": {"model": name},
        "chat": False,
        "settings": settings,
    }
    heads = {
        "samples": identity,
        "scores": {"task": "gsm8k", "version": 1, "judge": {"version": grader}, "samples": name},
    }
    for kind, head in heads.items():
        lines = [{"kind": kind, "format": 1, "identity": head}]
        for item, own in marks.items():
            lines += [
                {"item": item, "index": i, **({"correct": mark} if kind == "scores" else {})}
                for i, mark in enumerate(own)
            ]
        written(place, "".join(json.dumps(line) + "\n" for line in lines), f"{kind}.jsonl")
    return folder / name


def test_folders_of_evaluate(tmp_path):
    marks = {"0": [1.0, 0.0, 0.0], "1": [0.0, 0.0, 0.0]}
    rows = []
    for name, size in (("small", 1e6), ("large", 2e6)):
        rows += read_counts(run_folder(tmp_path, name, marks), sizes={"small": 1e6, "large": 2e6})
        assert rows[-1].size == size
    table = table_of(rows)
    assert table.models == ("small", "large") and table.n.tolist() == [[3, 3]] * 2 and table.c.tolist() == [[1, 0]] * 2
    other = read_counts(run_folder(tmp_path, "hot", marks, temperature=0.7), sizes={"hot": 3e6})
    with pytest.raises(ValueError, match="sampling settings differ"):
        table_of([*rows, *other])
    regraded = read_counts(run_folder(tmp_path, "regraded", marks, grader="2"), sizes={"regraded": 3e6})
    with pytest.raises(ValueError, match="graders differ"):
        table_of([*rows, *regraded])


def test_folders_that_hold_no_counts(tmp_path):
    sizes = dict.fromkeys(("greedy", "part", "choice", "good"), 1e6)
    with pytest.raises(ValueError, match=r"holds no TASK/scores.jsonl"):
        read_counts(tmp_path)
    with pytest.raises(ValueError, match="temperature 0, where each draw is the same"):
        read_counts(run_folder(tmp_path, "greedy", {"0": [1.0]}, temperature=0.0), sizes=sizes)
    with pytest.raises(ValueError, match="a part of a point"):
        read_counts(run_folder(tmp_path, "part", {"0": [0.5]}), sizes=sizes)
    good = run_folder(tmp_path, "good", {"0": [1.0]})
    with pytest.raises(ValueError, match="the size of good is not known"):
        read_counts(good)
    with pytest.raises(ValueError, match="holds gsm8k, not math"):
        read_counts(good, sizes=sizes, task="math")
    choice = run_folder(tmp_path, "choice", {"0": [1.0]})
    file = choice / "gsm8k" / "scores.jsonl"
    file.write_text(file.read_text().replace('"correct": 1.0', '"metrics": {}'))
    with pytest.raises(ValueError, match="multiple choice, which guessing passes too"):
        read_counts(choice, sizes=sizes)


def test_sizes():
    assert [read_size(text) for text in ("70M", "1.4b", "3e9", 5, "2k")] == [70e6, 1.4e9, 3e9, 5.0, 2000.0]
