"""The prompts: template files in Jinja, rendered in its sandbox, which a folder of the user's own may replace one by one.

| file | who reads it | what is asked |
|---|---|---|
| write | learner | the first program |
| teach | teacher | why the program fails and how to mend it, without the code |
| repair | learner | the mended program, by error and explanation |
| repair_error | learner | the mended program, by the error alone (baseline) |
| repair_steps | learner | the same, with the request to think step by step (baseline) |
| tests | learner | asserts, from the problem's text only (feedback selfgen) |

Each stands there as NAME.completion.jinja, a text that a model continues, and as NAME.chat.jinja, what a chat's user says. What a
template may name is in FIELDS. All files are parsed, looked through for other names, and rendered once before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fulgurite.evaluation.prompt_files import PromptFiles, copy_files

__all__ = ["FIELDS", "Templates", "copy_templates", "stops_of"]

_OWN = Path(__file__).parent / "templates"
_NAMES = ("write", "teach", "repair", "repair_error", "repair_steps", "tests")
_FORMS = ("completion", "chat")
FIELDS = {
    "task": "the request: a sentence, or a signature with its docstring",
    "start": "the beginning of the program that a completion continues; empty where all of it is to be written",
    "language": "the programming language, such as Python or C++",
    "fence": "what the head of a block of code calls that language, such as python or cpp",
    "source": "the program to translate, which stands in the request too; empty where nothing is translated",
    "entry_point": "the name of the function that is wanted",
    "program": "the program as it is now; empty if no answer held one",
    "explanation": "the teacher's explanation",
    "error": "what is wrong, as a paragraph",
    "error_type": "the exception's class, or another word such as Timeout",
    "error_message": "its message",
    "failing_test": "the assert that failed",
    "actual": "what the program gave there",
    "expected": "what the test wanted",
    "program_line": "the line of the program at which the exception arose",
    "turn": "the number of the repair, from 1; 0 for the first program",
}
_HEADING = "\n###"  # ours, with which each part of a completion begins


def stops_of(name: str, ends: Sequence[str]) -> tuple[str, ...]:
    """Texts that end the completion of a template. None of them cuts an explanation at a word of Python.

    Args:
        name: of the template.
        ends: what ends the body of the function that a completion continues; nothing where all of the program is written.
    """
    if name in ("teach", "repair_steps"):
        return (_HEADING,)
    if name == "tests":
        return (_HEADING, "\n```")
    return tuple(ends) or ("\n```",)


class Templates:
    """All prompts.

    Args:
        folder: files of the user's own, which replace ours of the same name; None for ours alone.

    Attributes:
        hashes: of each file's text, by its name.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file of another name, one that is no Jinja, or one that names a field that there isn't.
    """

    def __init__(self, folder: Path | None = None) -> None:
        names = [f"{name}.{form}.jinja" for name in _NAMES for form in _FORMS]
        self._files = PromptFiles("repair", _OWN, names, FIELDS, {"turn": 1}, folder, name_fields=True)
        self.hashes = self._files.hashes

    def text(self, name: str, chat: bool, fields: Mapping[str, object]) -> str:
        """A rendered prompt.

        Args:
            name: of the template, without its form.
            chat: for a chat's user, not as a text to continue.
            fields: values; those that are not given are empty, the language Python.
        """
        given = {"language": "Python", "fence": "python", "turn": 0, **fields}
        text = self._files.text(f"{name}.{'chat' if chat else 'completion'}.jinja", given)
        return text.strip() if chat else text


def copy_templates(folder: Path) -> list[Path]:
    """Writes our templates into a folder, to be edited there; a file that is there already is left alone.

    Args:
        folder: made if it is not there.

    Returns:
        The files that were written.
    """
    return copy_files(_OWN, folder)
