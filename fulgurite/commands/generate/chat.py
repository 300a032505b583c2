"""`fulgurite generate --chat`: a conversation in the terminal.

The history is laid before the model anew with each turn, through the chat template, as training did. /reset forgets it,
/quit and Ctrl-D end the chat, Ctrl-C stops an answer, whose turn then does not count.
"""

import contextlib
import sys

from fulgurite.commands.shared.whole_text import check_text
from fulgurite.data.records.conversation import Turn
from fulgurite.generation.texts import LoadedModel, generate_text
from fulgurite.generation.writers import GenerationSettings

__all__ = ["run_chat"]

_HELP = "/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer"


def run_chat(loaded: LoadedModel, start: tuple[Turn, ...], settings: GenerationSettings, lead: str = "") -> None:
    """Reads turns from the standard input and writes answers as they come.

    Args:
        loaded: the model and its tokenizer.
        start: the system's turn, or nothing.
        settings: of the answers; the seed counts up with the turns, so that the same question draws anew.
        lead: condition tokens in front of each question.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError(
            "generate: --chat reads what you type from the standard input, which is closed; give --prompt TEXT"
        )
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  input() then has a history and cursor keys

    _write(_HELP + "\n")
    history = start
    turn = 0
    while True:
        try:
            text = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            _write("\n")
            return
        if not text:
            continue
        if text.startswith("/"):
            if text in ("/quit", "/exit"):
                return
            if text == "/reset":
                history = start
                _write("forgotten\n")
            else:
                _write(f"{text} is no command: {_HELP}\n")
            continue
        try:
            check_text(text, "what was typed")
        except ValueError as error:
            _write(f"{error}\n")
            continue
        asked = (*history, Turn("user", lead + text))
        try:
            found = generate_text(loaded.model, loaded.tokenizer, [asked], _seeded(settings, turn), _write)
        except KeyboardInterrupt:
            _write("\n(stopped)\n")
            continue
        except ValueError as error:  # the conversation outgrew the window, or the template refuses an answer of its own
            _write(f"{error}; /reset forgets the conversation\n")
            continue
        _write("\n")
        turn += 1
        history = (*asked, Turn("assistant", found[0][0]))


def _seeded(settings: GenerationSettings, turn: int) -> GenerationSettings:
    from dataclasses import replace

    return settings if settings.seed is None else replace(settings, seed=settings.seed + turn)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
