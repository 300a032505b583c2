"""The prompts of all steps: template files that a folder of the user's own may replace one by one."""

from __future__ import annotations

from pathlib import Path

from fulgurite.evaluation.prompt_files import PromptFiles, copy_files

__all__ = ["FIELDS", "copy_templates", "templates_of"]

_OWN = Path(__file__).parent / "templates"
FIELDS = {
    "instruction": "the question or request",
    "kind": "Coding, Math_CoT, Math_PoT or Logic",
    "style": "of an action: steps, or tools (functions that are made first)",
    "hint": "what a gold hint is: program, code, solution; empty for none",
    "solution": "the gold solution; its answer is hidden where it is no program",
    "history": "the turns before a wrong action, a question or an answer, or earlier turns with their translations",
    "action": "a wrong action",
    "shown": "what its environment shows",
    "gold": "the right answer, or the reference program",
    "aspect": "of ratings: instruction_following, honesty, truthfulness or helpfulness",
    "answers": "the texts to be rated, a list",
    "answer": "the answer to be criticised",
    "knowledge": "what is known to be right or wrong; empty for nothing",
    "principle": "what the answer's system message asked for; empty for nothing",
    "again": "yes, or what was wrong, where an earlier answer could not be read; else empty",
    "document": "the segment of a document that is asked about",
    "title": "of the document; empty for none",
    "text": "the text to be translated, or judged as bound to a culture",
    "language": "that is wanted, by its English name",
    "code": "of that language, two letters",
    "deep": "yes where the next question goes deeper; empty where it goes wider",
    "topic": "of UltraChat 2: a meta-topic",
    "subtopic": "of UltraChat 2: a sub-topic of it",
    "domain": "text, code or maths",
    "number": "how many sub-topics or instructions are asked for",
    "about": "why a sub-topic belongs to its topic, and who needs it",
    "strong": "instructions of the same sub-topic, a list; empty in the first round",
    "weak": "instructions of related sub-topics, a list; empty in the first round",
    "dialogue": "a dialogue that the user goes on with",
}
_OTHERS: dict[str, object] = {"answers": ["x", "y"], "strong": ["x"], "weak": ["x"], "number": 2}


def templates_of(folder: Path | None = None) -> PromptFiles:
    """All templates.

    Args:
        folder: files of the user's own, which replace ours of the same name; None for ours alone.
    """
    names = sorted(file.name for file in _OWN.glob("*.jinja"))
    return PromptFiles("synthesize", _OWN, names, FIELDS, _OTHERS, folder)


def copy_templates(folder: Path) -> list[Path]:
    """Writes our templates into a folder, to be edited there; a file that is there already is left alone."""
    return copy_files(_OWN, folder)
