"""`fulgurite control`: how closely a model of CPOModule meets the levels that it is asked for.

Each objective alone at every level, and each two at all pairs of levels, are asked for with the same prompts. Spearman's ρ of asked
and reached level, the mean distance and what free objectives lose go to the console and, with every answer, to `control.json`;
the curves and the fronts over two objectives to `control.png`.

Who rates is a Python function `(instruction, answer) -> {objective: level}`: the playground's own checkers, or yours.
"""

import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from fulgurite.commands.control.picture import draw_control
from fulgurite.commands.generate.command import load_model
from fulgurite.commands.shared.options import ComputeOptions, SourceOptions, with_options
from fulgurite.commands.shared.unused import refuse_unused
from fulgurite.commands.shared.whole_text import check_text
from fulgurite.console import say, shortest
from fulgurite.data.sources.formats import ending_of
from fulgurite.data.sources.tables import read_lines, read_table
from fulgurite.evaluation.controllability import ControlReport, ask, conditions_to_ask
from fulgurite.generation.texts import generate_text
from fulgurite.generation.writers import GenerationSettings
from fulgurite.whole_files import write_text

__all__ = ["control", "control_tables"]

Rate = Callable[[str, str], Mapping[str, float]]


@with_options
def control(
    model: str | None = None,
    adapter: str | None = None,
    out: str = "control",
    rate: str = "playground",
    file: str | None = None,
    column: str = "instruction",
    count: int = 50,
    two_at_once: bool = True,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    *,
    compute: ComputeOptions,
) -> None:
    """Measures how closely answers follow requested levels.

    Args:
        model: hub id, folder, or a .ckpt file of CPOModule.
        adapter: folder of `fulgurite export`, or a .ckpt file, which knows its model.
        out: folder for control.json and control.png.
        rate: playground for its checkers, or MODULE:FUNCTION of yours, (instruction, answer) -> {objective: level}.
        file: instructions: .txt (one a line), or a table with a column of them; none takes the playground's test rows.
        column: the column of --file.
        count: instructions for each condition at most.
        two_at_once: ask for two objectives together too.
        max_new_tokens: tokens of an answer at most.
        batch_size: answers that are generated at once.
        compute: :class:`~fulgurite.commands.shared.options.ComputeOptions`.
    """
    if Path(out).is_file():
        raise FileExistsError(f"control: --out {out} is a file; give a folder")
    if count < 1:
        raise ValueError(f"control: count {count}; one instruction at least is needed; raise it")
    if file is None:
        refuse_unused("control", "without --file", column=(column, "instruction"))
    elif ending_of(Path(file)) == ".txt":
        refuse_unused("control", "with a .txt file, whose lines are the instructions", column=(column, "instruction"))
    judge = _judge(rate)
    prompts = _prompts(file, column, rate)[:count]
    settings = GenerationSettings(max_new_tokens=max_new_tokens, batch_size=batch_size)
    loaded = load_model("control", SourceOptions(model, adapter), compute)
    if loaded.conditions is None:
        raise ValueError(
            f"control: {shortest(model or adapter or '')} was trained without conditions; give a checkpoint of CPOModule "
            "or what was exported of one"
        )

    def answer(texts: list[str]) -> list[str]:
        return [found[0] for found in generate_text(loaded.model, loaded.tokenizer, texts, settings)]

    conditions = conditions_to_ask(loaded.conditions, two_at_once)
    report = ControlReport(loaded.conditions, ask(answer, prompts, loaded.conditions, judge, conditions))
    folder = Path(out)
    _write(report, prompts, folder / "control.json")
    draw_control({Path(shortest(model or adapter or "")).stem: report}, folder / "control.png")
    for name in loaded.conditions:
        if not any(name in asked.achieved for asked in report.answers):
            say(f"{rate} gave no answer a level of {name}, so that it has no figures")
    say(*control_tables(report), f"written: {shortest(folder / 'control.json')}, {shortest(folder / 'control.png')}")


def control_tables(report: ControlReport) -> list[Table]:
    """What is said on the console: levels reached, ρ, and what free objectives lose.

    Args:
        report: the answers.
    """
    reached = Table(title="one objective controlled: mean level reached", title_justify="left", title_style="bold")
    reached.add_column("objective")
    reached.add_column("no condition", justify="right")
    reached.add_column("asked for → reached")
    for name in report.objectives:
        curve = "  ".join(f"{level:g} → {_figure(mean)}" for level, mean in report.curve(name))
        reached.add_row(name, _figure(report.mean(name, {})), curve)
    closeness = Table(title="asked against reached", title_justify="left", title_style="bold")
    for column in ("controlled", "objective", "Spearman's ρ", "mean distance", "answers"):
        closeness.add_column(column, justify="left" if column in ("controlled", "objective") else "right")
    for row in report.rows():
        figures = (_figure(row["rho"], ".3f"), _figure(row["distance"]), str(row["answers"]))
        closeness.add_row(row["controlled"], row["objective"], *figures)
    lost = Table(title="what a free objective loses, % of its scale", title_justify="left", title_style="bold")
    for column in ("controlled", "free", "mean of the levels", "worst level"):
        lost.add_column(column, justify="left" if column in ("controlled", "free") else "right")
    for (controlled, free), (mean, worst) in report.falls().items():
        lost.add_row(controlled, free, _figure(100 * mean, "+.1f"), _figure(100 * worst, "+.1f"))
    return [reached, closeness, lost]


def _figure(value: float, form: str = ".2f") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


def _judge(name: str) -> Rate:
    if name == "playground":
        from fulgurite.data.playground import rate

        return rate
    module, colon, function = name.partition(":")
    sys.path.insert(0, "")  # a file beside the user is found, as `python -m` finds it
    try:
        found: Any = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"control: --rate {name}: {error}; give playground, or MODULE:FUNCTION") from error
    finally:
        sys.path.remove("")
    if not callable(found):
        raise ValueError(f"control: --rate {name} is no function; give playground, or MODULE:FUNCTION")
    judge: Rate = found
    return judge


def _prompts(file: str | None, column: str, rate: str) -> list[str]:
    if file is None:
        if rate != "playground":
            raise ValueError(
                "control: --rate is a function of yours, and no --file with instructions was given; give one"
            )
        from fulgurite.data.playground import builtin_rows

        return list(dict.fromkeys(str(row["instruction"]) for row in builtin_rows("cpo", "test")))
    path = Path(file)
    if ending_of(path) == ".txt":
        numbered = [(line, f"{path}, line {i}") for i, line in enumerate(read_lines(path), 1) if line.strip()]
    else:
        table = read_table(path, owner="control: --file")
        table.require(column)
        rows = zip(table.rows, table.places, strict=True)
        given = [(row[column], str(place)) for row, place in rows]
        wrong = next(((text, where) for text, where in given if not isinstance(text, str | None)), None)
        if wrong is not None:
            raise ValueError(
                f"control: {wrong[1]}: {column!r} holds {repr(wrong[0])[:60]}; a text is needed; correct it"
            )
        numbered = [(text, where) for text, where in given if text is not None and text.strip()]
        if len(numbered) < len(given):
            say(f"{len(given) - len(numbered)} of {len(given)} rows of {path} hold no instruction and are left out")
    if not numbered:
        raise ValueError(f"control: {path} holds no instruction; give a file with one at least")
    for text, where in numbered:
        check_text(text, where)
    return [text for text, _ in numbered]


def _write(report: ControlReport, prompts: list[str], file: Path) -> None:
    content = {
        **report.objectives.to_dict(),
        "rows": report.rows(),
        "curves": {name: report.curve(name) for name in report.objectives},
        "falls": [[*pair, *lost] for pair, lost in report.falls().items()],
        "answers": [
            {"instruction": prompts[i % len(prompts)], "condition": a.condition, "achieved": a.achieved}
            for i, a in enumerate(report.answers)
        ],
    }
    write_text(file, json.dumps(_null_for_nan(content), indent=1, allow_nan=False) + "\n")


def _null_for_nan(value: Any) -> Any:
    """The same with None for each NaN, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: _null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
