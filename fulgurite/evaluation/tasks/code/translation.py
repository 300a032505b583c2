"""Translation between the languages of HumanEval-X (arXiv 2303.17568), zero examples, judged by the tests of the target's language.

The prompt is the published one: "code translation", the source's name with declaration and solution, the target's name with its
declaration, which is continued. A task reads two files: that of the target's language, and beside it that of the source's. Items
have the names of the target's file. Which crates and packages a target lacks is said in `humaneval_x`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

from fulgurite.data.records.findings import Place
from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.judging.programs import ProgramJudge
from fulgurite.evaluation.tasks.code.humaneval_x import LANGUAGES, Language, job_of, program_of, python_entry
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register

__all__ = ["TRANSLATIONS"]


def _number(row: Row) -> str:
    return str(field_of(row, "task_id", (str, int))).rpartition("/")[2]


def _pairs(name: str, source: Language, target: Language) -> Callable[[Path], Iterator[tuple[Place, Row]]]:
    def read(path: Path) -> Iterator[tuple[Place, Row]]:
        own, wanted = f"humaneval_{target.file}.jsonl", f"humaneval_{source.file}.jsonl"
        other = path.with_name(path.name.replace(own, wanted))
        if own not in path.name or not other.exists():
            raise FileNotFoundError(
                f"{name}: rows of two languages are needed; given is {path}, and {wanted} (or {wanted}.gz) does not lie beside "
                f"{own}; give the folder that holds both"
            )
        programs = {_number(row): row for _, row in rows_of(other, owner=name)}
        for place, row in rows_of(path, owner=name):
            partner = programs.get(_number(row))
            yield place, row if partner is None else {**row, "source": partner}

    return read


def _item(source: str, target: str) -> Callable[[Row, int], Item]:
    ours, theirs = LANGUAGES[target], LANGUAGES[source]

    def item(row: Row, number: int) -> Item:
        start, test, partner = field_of(row, "declaration"), field_of(row, "test"), field_of(row, "source", dict)
        given = f"{field_of(partner, 'declaration')}{field_of(partner, 'canonical_solution').rstrip()}".strip("\n")
        data = {"prompt": start, "test": test, "language": target, "source": given, "source_language": source}
        data["examples"] = str(row.get("example_test") or "")
        if target == "python":  # the declaration alone has no body, which the test's process needs for helper functions
            data |= {"entry_point": python_entry(test), "helpers": field_of(row, "prompt")}
        asked = (
            f"Translate this {theirs.title} program into {ours.title}.\n\n```{theirs.fence}\n{given}\n```\n\n"
            f"The {ours.title} program begins so:\n\n```{ours.fence}\n{start.strip()}\n```"
        )
        data["request"] = asked
        return Item(
            str(field_of(row, "task_id", (str, int))),
            f"code translation\n{theirs.title}:\n{given}\n{ours.title}:\n{start}",
            question=f"{asked}\n\nAnswer with all of it in one block of code.",
            solution=str(row.get("canonical_solution") or ""),
            data=data,
        )

    return item


TRANSLATIONS: dict[str, Task] = {}
for _source, _target in permutations(LANGUAGES, 2):
    _name, _ours, _theirs = f"humaneval_x_{_source}_to_{_target}", LANGUAGES[_target], LANGUAGES[_source]
    _file = f"humaneval_{_ours.file}.jsonl.gz"
    TRANSLATIONS[_name] = register(
        Task(
            _name,
            f"HumanEval-X: 164 functions translated from {_theirs.title} into {_ours.title}",
            1,
            _item(_source, _target),
            ProgramJudge(job_of, _ours.name),
            files=(f"code/humaneval-x/{_file}", f"humaneval-x/{_file}", _file, _file.removesuffix(".gz")),
            read=_pairs(_name, _theirs, _ours),
            stop=_ours.stop,
            max_new_tokens=512,
            answer=program_of,
        )
    )
