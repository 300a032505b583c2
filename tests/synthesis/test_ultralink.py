"""UltraLink's pipelines by scripted models: segments, turns, the stop rule, translation, ids, resuming at any byte."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fulgurite.cli import main
from fulgurite.data.readers.conversations import ConversationReader
from fulgurite.data.sources.locate import user_sources
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.synthesis import run_recipe
from fulgurite.synthesis.authors import Author, open_authors
from fulgurite.synthesis.multilingual.parsing import CRITERIA
from fulgurite.synthesis.prompts import templates_of
from fulgurite.synthesis.sources import first_rows
from fulgurite.synthesis.steps.multilingual.converse import planned_turns
from tests.generation.server.local_server import answer, serving
from tests.synthesis.fakes import Table, ran, written

MODELS = {"writer": {"model": "x"}, "judge": {"model": "x"}}
UNTOLD = {"check_language": False}  # lingua need not be there
SPECIFIC: list[dict[str, Any]] = [
    {"name": "language", "do": "identify", "language": "fr"},
    {"name": "segments", "do": "segment", "by": "writer", "tokens": 40, "least": 15, "document_least": 10},
    {"name": "questions", "do": "question", "by": "writer", "retries": 1, **UNTOLD},
    {"name": "dialogues", "do": "converse", "by": "writer", "retries": 1, **UNTOLD},
    {"name": "files", "do": "publish", "kind": "chat_specific"},
]
AGNOSTIC: list[dict[str, Any]] = [
    {"name": "language", "do": "identify", "column": "text", "language": "en"},
    {"name": "culture", "do": "screen", "by": "judge", "retries": 1},
    {"name": "translations", "do": "translate", "by": "writer", "languages": ["fr", "zh"], "retries": 1, **UNTOLD},
    {"name": "files", "do": "publish", "kind": "chat_agnostic"},
]


def documents(count: int) -> list[dict[str, Any]]:
    """Documents of three paragraphs of 18 estimated tokens each, with their line feeds: a segment of two, and a last one."""
    texts = ["\n\n".join(f"Document {i}, paragraph {p}: ".ljust(50, "x") for p in range(3)) for i in range(count)]
    return [{"id": f"d{i}", "title": f"Title {i}", "text": text} for i, text in enumerate(texts)]


def specific(model: str, row: str, part: str, index: int, text: str) -> str:
    """Questions and answers that say which ones they are."""
    if part.startswith("question"):
        return f"Question : Que dire de {part.split()[-1]} dans {row} ?"
    return f"Une réponse assez longue, {part}, {row}."


def made(
    steps: list[dict[str, Any]], folder: Path, rows: list[dict[str, Any]], rule: Any, reads: str, **more: Any
) -> Any:
    recipe = written(folder, {"models": MODELS, "rows": {"reads": reads}, "steps": steps}, rows)
    return ran(recipe, folder / "out", rule, **more)


def test_the_stop_rule() -> None:
    class Draws(random.Random):
        """Numbers that are given."""

        def __init__(self, *numbers: float) -> None:
            self.numbers = list(numbers)

        def random(self) -> float:
            return self.numbers.pop(0)

    assert [planned_turns(Draws(*numbers), 0.1) for numbers in (
        (0.09,), (0.1, 0.19), (0.1, 0.2, 0.39), (0.1, 0.2, 0.4, 0.79), (0.1, 0.2, 0.4, 0.8),
    )] == [2, 3, 4, 5, 6]  # fmt: skip
    assert planned_turns(Draws(), 1.0) == 2
    counts = Counter(planned_turns(random.Random(seed), 0.1) for seed in range(20_000))
    wanted = {2: 0.1, 3: 0.18, 4: 0.288, 5: 0.3456, 6: 0.0864}
    assert set(counts) == set(wanted)
    assert all(counts[turns] / 20_000 == pytest.approx(share, abs=0.012) for turns, share in wanted.items())
    assert sum(turns * count for turns, count in counts.items()) / 20_000 == pytest.approx(4.14, abs=0.03)


def test_documents_become_dialogues(tmp_path: Path) -> None:
    prompts: dict[tuple[str, str], str] = {}

    def noting(model: str, row: str, part: str, index: int, text: str) -> str:
        prompts[row, part] = text
        return specific(model, row, part, index, text)

    done, asked = made(SPECIFIC, tmp_path, documents(8), noting, "documents")
    rows = done.ledger.tables["fr_chat_specific"].rows
    keys = [entry["row"] for entry in done.ledger.tables["fr_chat_specific"].made]
    assert keys == [f"d{i}.{n}" for i in range(8) for n in (1, 2)], "two paragraphs, and the third one"
    assert [row["id"] for row in rows] == [f"fr_chat_specific_{n}" for n in range(16)]
    for row, key in zip(rows, keys, strict=True):
        number, segment = int(key[1]), int(key[-1])
        here = [f"Document {number}, paragraph {p}" for p in range(3)]
        assert [part in prompts[key, "question"] for part in here] == [segment == 1, segment == 1, segment == 2]
        assert f"Title {number}" in prompts[key, "question"] and "en français" in prompts[key, "question"]
        draws = random.Random(f"0|dialogues|{key}|turns")
        turns = 2 + next((k for k in range(4) if draws.random() < 0.1 * 2**k), 4)
        assert len(row["data"]) == 2 * turns
        assert row["data"][0] == f"Que dire de question dans {key} ?"
        assert row["data"][1] == f"Une réponse assez longue, answer 1, {key}."
        assert row["data"][-2:] == [
            f"Que dire de {turns} dans {key} ?",
            f"Une réponse assez longue, answer {turns}, {key}.",
        ]
        assert row["data"][2] in prompts[key, "answer 2"] and row["data"][1] in prompts[key, "question 2"]
    assert len({len(row["data"]) for row in rows}) > 2
    assert len(asked) == sum(len(row["data"]) for row in rows) and asked.count(("writer", "d0.1", "question", 0)) == 1
    deep = Counter("Approfondis" in text for (_, part), text in prompts.items() if part.startswith("question "))
    assert min(deep[True], deep[False]) > 0.3 * deep.total(), "in depth and into the breadth"
    reader = ConversationReader(user_sources(str(done.files["fr_chat_specific"]), owner="test"), on_bad_row="error")
    read = list(reader)
    assert [[turn.content for turn in one.turns] for one in read] == [row["data"] for row in rows]
    assert {one.tag for one in read} == {"fr"} and set(reader.schemas.values()) == {"ultralink"}


def test_a_last_segment_that_is_short_is_counted(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "x" * 90 + "\n" + "y" * 90 + "\n" + "z" * 30},
        {"id": "b", "text": "word"},
        {"id": "c", "text": "w " * 20_000},
    ]
    done, _ = made(SPECIFIC[:2], tmp_path, rows, specific, "documents")
    step = done.ledger.steps[2]
    assert step.kept == 2 and step.dropped == {"fewer than 10 tokens": 1, "more than 10000 tokens": 1}
    assert step.notes == {"a last segment of 15 tokens or fewer is left out": 1}
    assert step.figures["of them in last segments left out"] == 11


def test_models_that_answer_otherwise_or_not_at_all(tmp_path: Path) -> None:
    rows = documents(1)[0]["text"]
    given = [{"id": f"d{i}", "text": rows[:80]} for i in range(9)]
    again: list[str] = []

    def rule(model: str, row: str, part: str, index: int, text: str) -> str | None:
        if index:
            again.append(f"{row} {part}")
        odd = {
            ("d0.1", "question"): ["1. Un ?\n2. Deux ?", "Selon le texte, pourquoi ?"],
            ("d1.1", "question"): ["", "Pourquoi donc ?"],
            ("d2.1", "answer 1"): ["", " "],
            ("d3.1", "answer 1"): ["Court.", ""],
            ("d4.1", "answer 2"): ["Court.", ""],
            ("d5.1", "question 2"): ["Que dire de question dans d5.1 ?"] * 2,  # asked before
            ("d6.1", "answer 2"): ["Une réponse avec <document> dedans.", "Une autre \ufffd réponse."],
            ("d7.1", "answer 2"): [None, None],
            ("d8.1", "question"): [None, None],
        }.get((row, part))
        return specific(model, row, part, index, text) if odd is None else odd[index]

    done, _ = made(SPECIFIC, tmp_path, given, rule, "documents")
    questions, dialogues = done.ledger.steps[3:5]
    assert questions.dropped == {"no question: a question that points at the document": 1}
    assert dialogues.dropped == {"no first answer: empty": 1, "no first answer: an answer of fewer than 10 letters": 1}
    assert {why: n for why, n in dialogues.notes.items() if why.startswith("ended")} == {
        "ended early: an answer of fewer than 10 letters": 1, "ended early: no question: a question that was asked before": 1,
        "ended early: no answer: broken Unicode": 1,
    }  # fmt: skip
    assert sorted(done.ledger.left) == ["d7.1", "d8.1"] and questions.waiting.total() == dialogues.waiting.total() == 1
    table = done.ledger.tables["fr_chat_specific"]
    found = {entry["row"]: row["data"] for entry, row in zip(table.made, table.rows, strict=True)}
    assert {key: len(data) for key, data in found.items() if key != "d1.1"} == {"d4.1": 2, "d5.1": 2, "d6.1": 2}
    assert found["d1.1"][0] == "Pourquoi donc ?" and "d1.1 question" in again
    done, asked = made(SPECIFIC, tmp_path, given, lambda *a: specific(*a), "documents")
    assert {row for _, row, _, _ in asked} == {"d7.1", "d8.1"} and not done.ledger.left, (
        "only what was missing is asked for"
    )


def test_a_full_window_ends_a_dialogue(tmp_path: Path) -> None:
    steps = [*SPECIFIC[:3], {**SPECIFIC[3], "window": 5}, SPECIFIC[4]]
    done, _ = made(steps, tmp_path, documents(2), specific, "documents")
    assert all(len(row["data"]) == 2 for row in done.ledger.tables["fr_chat_specific"].rows)
    assert done.ledger.steps[4].notes == {"ended early: prompt and answer of 5 tokens or more": 4}


DIALOGUES = [
    ["What is 3 + 4?", "3 + 4 = 7.\n#### 7"],
    ["Write a loop.", "```python\nfor i in x: pass\n```", "And why is it $x^2$?", "Because of $x^2$ and nothing else."],
    ["Tell me of Ann Lee.", "She lived here."],
    ["See https://a.b now.", "Yes."],
    ["Say it in other words.", "It is so."],
]
FRENCH = {
    "What is 3 + 4?": "Combien font 3 + 4 ?", "Write a loop.": "Écris une boucle.", "And why is it $x^2$?": "Et pourquoi $x^2$ ?",
    "Because of $x^2$ and nothing else.": "À cause de $x^2$ et de rien d'autre.", "Yes.": "Oui.",
    "Say it in other words.": "Dis-le autrement.", "It is so.": "C'est ainsi.",
}  # fmt: skip


def agnostic(model: str, row: str, part: str, index: int, text: str) -> str:
    source = re.findall(r"<text>\n(.*)\n</text>", text, re.DOTALL)[0]
    if model == "judge":
        bound = {"names"} if "Ann Lee" in source else {"code"} if "never" in source else set()
        return "\n".join(f"{name}: {int(name in bound)}" for name in CRITERIA) + f"\nTotal Score: {len(bound)}"
    if row.endswith(".zh"):
        return {"What is 3 + 4?": "3 + 4 = 7"}.get(source, f"<translation>中文：{source}</translation>")
    return f"<translation>{FRENCH[source]}</translation>"


def dialogue_rows() -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]}
        for texts in DIALOGUES
    ]


def test_dialogues_go_into_other_languages(tmp_path: Path) -> None:
    prompts: dict[tuple[str, str], str] = {}

    def noting(model: str, row: str, part: str, index: int, text: str) -> str:
        prompts[row, part] = text
        if (row, part, index) == ("5.fr", "turn 2", 0):
            return "<translation>C'est 12 fois ainsi.</translation>"
        return agnostic(model, row, part, index, text)

    done, asked = made(AGNOSTIC, tmp_path, dialogue_rows(), noting, "dialogues")
    tables = {name: [row["data"] for row in table.rows] for name, table in done.ledger.tables.items()}
    assert done.ledger.steps[2].dropped == {"bound to a culture": 1, "a pattern that is left out": 1}
    assert tables["en_chat_agnostic"] == [DIALOGUES[0], DIALOGUES[1], DIALOGUES[4]]
    french = [[FRENCH.get(text, text) for text in texts] for texts in tables["en_chat_agnostic"]]
    assert tables["fr_chat_agnostic"] == french
    assert done.ledger.tables["fr_chat_agnostic"].rows[1]["id"] == "fr_chat_agnostic_1"
    assert [entry["row"] for entry in done.ledger.tables["fr_chat_agnostic"].made] == ["1.fr", "2.fr", "5.fr"]
    assert ("writer", "1.fr", "turn 2", 0) not in asked, "3 + 4 = 7 and #### 7 are no prose"
    assert ("writer", "2.fr", "turn 2", 0) not in asked, "code is carried over"
    assert "Et pourquoi $x^2$ ?" in prompts["2.fr", "turn 4"], "the turn before is in sight"
    assert (
        "numbers changed (12 is new)" in prompts["5.fr", "turn 2"]
        and len(done.ledger.tables["fr_chat_agnostic"].made[2]["answers"]) == 4
    )
    assert done.ledger.steps[3].dropped == {"another format": 1} and len(tables["zh_chat_agnostic"]) == 2


def test_volume_and_source(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "Yes."}, {"role": "assistant", "content": "It is so."}]}] * 12
    step = {**AGNOSTIC[2], "languages": ["fr"], "volume": 5, "keep_source": False}
    done, _ = made([AGNOSTIC[0], step, AGNOSTIC[3]], tmp_path, rows, agnostic, "dialogues")
    keys = [entry["row"] for entry in done.ledger.tables["fr_chat_agnostic"].made]
    assert len(keys) == 5 and set(done.ledger.tables) == {"fr_chat_agnostic"}
    assert done.ledger.steps[2].dropped == {"in no sample, or in the only language that is wanted": 7}
    assert keys != [f"{n}.fr" for n in range(1, 6)], "at random, not the first ones"


def test_verdicts_that_cannot_be_read(tmp_path: Path) -> None:
    for unread in ("drop", "keep"):
        step = {**AGNOSTIC[1], "unread": unread, "patterns": [], "tokens": 14}
        done, asked = made(
            [AGNOSTIC[0], step], tmp_path, dialogue_rows()[3:], lambda *_: "Fine!", "dialogues", overwrite=True
        )
        count = done.ledger.steps[2]
        assert len(asked) == 2 and count.dropped["14 tokens or more"] == 1
        assert (count.kept, sum(count.notes.values())) == ((0, 0) if unread == "drop" else (1, 1))


@pytest.mark.slow
def test_rows_of_one_meaning_are_pruned(tmp_path: Path) -> None:
    """By the playground model's hidden states; words alone would not tell that the first two are one."""
    texts = [
        "Who threw the old flute?",
        "Who threw the old  flute ?",
        "What is 9 * 8 + 2?",
        "Is this review good or bad?",
    ]
    rows = [{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": "Yes."}]} for t in texts]
    steps = [{"name": "apart", "do": "prune", "by": "m", "similarity": 0.6, "batch_size": 2}]
    given = {"models": {"m": {"model": "playground"}}, "rows": {"reads": "dialogues"}, "steps": steps}
    recipe = written(tmp_path, given, rows)
    authors = open_authors(recipe.models, 0)
    found, count, _ = first_rows(recipe.rows, None, "few")
    done = run_recipe(recipe, (found, count), authors, templates_of(), tmp_path / "out", How(), silent=True)
    step = done.ledger.steps[1]
    assert step.kept == 3 and step.first["nearly the same meaning"][0].startswith("2: as row 1, cosine 0.")
    server: dict[str, Author] = {"m": Author("m", Table("m", agnostic), authors["m"].settings)}
    with pytest.raises(ValueError, match="the model 'm' tells no hidden states; name a model of this process"):
        run_recipe(recipe, (found, count), server, templates_of(), tmp_path / "other", How(), silent=True)


def test_options_and_orders_that_make_no_sense(tmp_path: Path) -> None:
    for step, said in (
        ({"do": "identify", "language": "xx"}, "no language 'xx'; allowed are the two letters of ISO 639-1"),
        ({"do": "identify", "language": "fr", "languages": ["es"]}, "identify has language and languages"),
        ({"do": "segment", "by": "writer", "tokens": 10, "least": 10}, "tokens=10, least=10"),
        ({"do": "converse", "by": "writer", "stop": 0}, "stop=0"),
        ({"do": "translate", "by": "writer", "languages": ["fr", "fr"]}, "needs languages, each once"),
        ({"do": "screen", "by": "judge", "patterns": ["("]}, r"'\(' is no regular expression"),
        ({"do": "publish", "kind": "chat"}, "kind"),
    ):
        with pytest.raises(ValueError, match=said):
            written(tmp_path, {"models": MODELS, "steps": [step]})
    with pytest.raises(ValueError, match="row d0 has no text in 'language'"):
        made([SPECIFIC[2]], tmp_path, documents(1), specific, "documents")
    with pytest.raises(ValueError, match="row d0 has no dialogue; put converse before it"):
        made([SPECIFIC[0], SPECIFIC[4]], tmp_path, documents(1), specific, "documents")


def test_without_lingua_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from fulgurite.synthesis.multilingual import languages

    monkeypatch.setitem(sys.modules, "lingua", None)
    languages._detector.cache_clear()
    told = [*SPECIFIC[:2], {**SPECIFIC[2], "check_language": True}]
    for steps in ([{"do": "identify"}], told):
        with pytest.raises(ImportError, match=r"languages are told by lingua; pip install 'fulgurite\[synthesis\]'"):
            made(steps, tmp_path, documents(1), lambda *_: pytest.fail("asked"), "documents", overwrite=True)


def lines(file: Path) -> int:
    """Records that stand there whole, without the header."""
    return max(0, file.read_bytes().count(b"\n") - 1)


def uneven(model: str, row: str, part: str, index: int, text: str) -> str:
    """One answer of four cannot be used, so that some are asked for again and some rows are left out."""
    if random.Random(f"{row}|{part}|{index}").random() < 0.25:
        return ["", "Une ?\nDeux ?", "Court."][len(part) % 3]
    return (agnostic if "<text>" in text else specific)(model, row, part, index, text)


PIPELINES = pytest.mark.parametrize(
    ("steps", "reads", "rows"), [(SPECIFIC, "documents", documents(4)), (AGNOSTIC, "dialogues", dialogue_rows())]
)


@pytest.mark.slow
@PIPELINES
def test_cut_at_any_byte_nothing_is_asked_twice(
    steps: list[dict[str, Any]], reads: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    recipe = written(tmp_path, {"models": MODELS, "rows": {"reads": reads}, "steps": steps}, rows)
    whole, asked = ran(recipe, tmp_path / "out", uneven)
    first = tmp_path / "first"
    (tmp_path / "out").rename(first)
    files = sorted(first.glob("steps/*.jsonl"))
    assert len(asked) == len(set(asked)) == sum(map(lines, files)) > 15 and whole.ledger.tables
    assert any(index for *_, index in asked), "some were asked for again"
    draw = random.Random(1)
    for cut in range(10):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(first, out)
        for file in out.glob("*.jsonl"):
            file.unlink()
        for file in files if cut % 2 else files[:1]:
            data = file.read_bytes()
            (out / "steps" / file.name).write_bytes(data[: draw.randint(0, len(data))])
        left = sum(lines(out / "steps" / file.name) for file in files)
        _, more = ran(recipe, out, uneven)
        assert len(more) == len(asked) - left, cut
        for table in whole.files:
            for name in (f"{table}.jsonl", f"{table}.made.jsonl"):
                assert (out / name).read_bytes() == (first / name).read_bytes()


def handle(path: str, body: dict[str, Any], number: int, handler: Any) -> dict[str, Any]:
    """Says what prompt and seed decide, some of it in no form that can be used."""
    text, seed = body["messages"][0]["content"], body["seed"]
    if seed % 4 == 0:
        return answer(path, body, [["", "Une ?\nDeux ?", "Court."][seed % 3]])
    if "<text>" in text:
        return answer(path, body, [agnostic(body["model"], "1.fr", "", 0, text)])
    return answer(path, body, [f"Une suite assez longue, numéro {seed}."])


@pytest.mark.slow
@PIPELINES
def test_a_server_is_asked_once(
    steps: list[dict[str, Any]],
    reads: str,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(handle) as seen:
        models = {model: {"server": seen.url, "served_model": model, "concurrency": 4} for model in MODELS}
        written(tmp_path, {"models": models, "rows": {"reads": reads}, "steps": steps}, rows[:3])
        words = ["synthesize", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]
        assert main(words) == 0, capsys.readouterr()
        asked, files = len(seen.requests), sorted((tmp_path / "out").glob("??_chat_*.jsonl"))
        texts = {file: file.read_bytes() for file in files}
        cut = max((tmp_path / "out" / "steps").glob("*.jsonl"), key=lambda file: file.stat().st_size)
        data, before = cut.read_bytes(), lines(cut)
        cut.write_bytes(data[: len(data) // 2])
        lost = before - lines(cut)
        assert lost > 1 and main(words) == 0, capsys.readouterr()
        assert len(seen.requests) - asked == lost and {file: file.read_bytes() for file in files} == texts


@pytest.mark.slow
def test_the_recipes_as_they_stand_and_what_comes_out_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Offline on the playground; two steps of SFT on the rows, read in strict mode."""
    for name in ("ultralink_specific", "ultralink_agnostic"):
        words = ["synthesize", name, "--path", "builtin", "--limit", "2", "--out", str(tmp_path / name)]
        assert main(words) == 0, capsys.readouterr()
    assert lines(tmp_path / "ultralink_agnostic" / "en_chat_agnostic.jsonl") == 1  # two rows
    fit = (
        f"fit --model SFTModule --model.backbone playground --data UltraLinkDataModule --data.path {tmp_path}/ultralink_specific/"
        "en_chat_specific.jsonl --data.on_bad_row error --data.batch_size 2 --data.max_length 256 --data.val_fraction 0 "
        "--trainer.max_steps 2 --trainer.accelerator cpu --trainer.logger false --trainer.enable_progress_bar false "
        f"--trainer.default_root_dir {tmp_path}/fit"
    )
    assert main(fit.split()) == 0, capsys.readouterr()
    assert list((tmp_path / "fit").rglob("*.ckpt"))
