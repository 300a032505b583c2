"""What a model wrote when it was asked for a question, a translation or a verdict about culture; in another form it is unread."""

from __future__ import annotations

import re

__all__ = ["CRITERIA", "Unread", "answer_in", "question_in", "translation_in", "verdict_in"]

# What binds a text to a culture; the published filter scores the same seven things.
CRITERIA = ("names", "code", "places", "customs", "wordplay", "everyday", "organisations")
_LABEL = re.compile(
    r"^[\W_]*(?:question|pregunta|вопрос|问题|frage|domanda|pergunta|質問)\s*\d*\s*\**\s*[:：]\s*\**\s*", re.IGNORECASE
)
_NUMBERED = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+")
_QUOTES = {'"': '"', "“": "”", "«": "»", "„": "“", "「": "」", "'": "'", "”": "”"}
_MARK = re.compile(r"</?\\?document>|<\\document>", re.IGNORECASE)
_POINTS = re.compile(
    r"\b(?:according to|(?:mentioned|described|given|stated|discussed) in|based on|in) (?:the|this) (?:above |given |provided )?"
    r"(?:text|passage|document|article|paragraph|segment)\b"
    r"|\b(?:según|en) (?:el|este) (?:texto|documento|artículo|pasaje)\b"
    r"|\b(?:selon|d['’]après|dans) (?:le|ce|cet|l['’]) ?(?:texte|document|article|passage)\b"
    r"|\b(?:согласно|в) (?:этому |этом |данному |данном |приведённому )?(?:тексту|тексте|документу|документе|статье|отрывку)\b"
    r"|(?:根据|按照|依据)?(?:上述|上面的?|本|这段|该|以上)(?:文本|文章|文档|材料|段落|内容|文字)|文中|根据(?:文本|文章|文档|材料)"
    r"|\b(?:laut|gemäß|in) (?:dem|diesem) (?:Text|Dokument|Artikel|Abschnitt)\b",
    re.IGNORECASE,
)
_TRANSLATION = re.compile(r"<translation>(.*)</translation>", re.DOTALL | re.IGNORECASE)
_TOTAL = re.compile(r"total\W*score\W*[:=]\W*(-?\d+)", re.IGNORECASE)


class Unread(ValueError):
    """An answer that is not what was asked for; its message is the reason that is counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


def question_in(text: str) -> str:
    """The question that an answer holds, without a label, a number or quotation marks around it.

    Args:
        text: the answer; one line of it at most.

    Raises:
        Unread: no question, several lines, or one that points at a text which its reader does not see.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise Unread("empty")
    if len(lines) == 2 and re.sub(_LABEL, "", lines[0]) == "":  # "Question:" on a line by itself
        lines = lines[1:]
    if len(lines) > 1:
        raise Unread("several lines in place of one question", lines[1][:60])
    found = _unquoted(_LABEL.sub("", _NUMBERED.sub("", lines[0])).strip())
    if not any(letter.isalnum() for letter in found):
        raise Unread("empty", found)
    _check_marks(found)
    pointing = _POINTS.search(found)
    if pointing is not None:
        raise Unread("a question that points at the document", pointing[0])
    return found


def answer_in(text: str) -> str:
    """An answer, without blanks around it.

    Args:
        text: what was written.

    Raises:
        Unread: nothing, or the marks of the prompt.
    """
    if not text.strip():
        raise Unread("empty")
    _check_marks(text)
    return text.strip()


def translation_in(text: str) -> str:
    """What stands between <translation> and </translation>.

    Args:
        text: what was written.

    Raises:
        Unread: the marks are not there.
    """
    found = _TRANSLATION.search(text)
    if found is None:
        raise Unread("another format" if text.strip() else "empty", text[:60])
    if _TRANSLATION.search(found[1]) or "<translation>" in found[1].lower():
        raise Unread("another format", "several translations")
    return found[1].strip()


def verdict_in(text: str) -> dict[str, bool]:
    """Of each criterion whether a text meets it.

    Args:
        text: a line "NAME: 0" or "NAME: 1" for each criterion, and perhaps "Total Score: N".

    Raises:
        Unread: a criterion without 0 or 1, or a total that is not their sum.
    """
    if not text.strip():
        raise Unread("empty")
    found: dict[str, bool] = {}
    for name in CRITERIA:
        said = re.findall(rf"^[\W\d_]*{name}\b[\W_]*?[:=\-–][*_ \t]*([^\n]*)", text, re.IGNORECASE | re.MULTILINE)
        values = {part[0] for line in said if (part := re.match(r"[01](?![\d.,/%])", line.strip()))}
        if len(said) == 0 or len(values) != 1 or any(not re.match(r"[01](?![\d.,/%])", line.strip()) for line in said):
            raise Unread("a criterion without 0 or 1", f"{name}: {said[0][:40] if said else 'not there'}")
        found[name] = values == {"1"}
    total = _TOTAL.findall(text)
    if total and int(total[-1]) != sum(found.values()):
        raise Unread("a total that is not the sum", f"{total[-1]} of {sum(found.values())}")
    return found


def _unquoted(text: str) -> str:
    bold = re.fullmatch(r"(\*\*|__|\*)(.+)\1", text)
    text = bold[2].strip() if bold else text
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def _check_marks(text: str) -> None:
    mark = _MARK.search(text)
    if mark is not None:
        raise Unread("marks of the prompt", mark[0])
