"""What a translation has to keep: code, LaTeX, links, numbers by value, questions."""

from __future__ import annotations

import pytest

from fulgurite.synthesis.multilingual.survival import kept_in, lost_in

CODE = "Fix this:\n```python\nx = 1\n```\nand call `f(2)`."
MATHS = r"If $x^2 = \frac{4}{9}$ and \(y\) is 3, what is \[x \text{ plus } y\]?"


@pytest.mark.parametrize(
    ("source", "translation"),
    [
        ("It costs $5 or $6.", "Cuesta 5 $ o 6 $."),
        ("There are 1,234.5 litres and 12,000 jars.", "Il y a 1 234,5 litres et 12 000 pots."),
        ("There are 1,234.5 litres and 12,000 jars.", "Hay 1.234,5 litros y 12.000 frascos."),
        ("In 1990 200 people came, at -5 degrees.", "1990年有 200 人来，气温 −5 度。"),
        ("He has 45 apples.", "لديه ٤٥ تفاحة."),
        (CODE, "Arregla esto:\n```python\nx = 1  \n```\ny llama a `f(2)`."),
        (MATHS, r"如果 \(x^2=\frac{4}{9}\) 且 $y$ 等于 3，\[x\text{ 加 }y\] 是多少？"),
        ("So 3 + 4 = 7.\n#### 7", "Donc 3 + 4 = 7.\n#### 7"),
        ("See https://a.b/c?d=1 for 2 of them.", "Voir https://a.b/c?d=1 pour 2 d'entre eux."),
        ("The points are:\n    - one 1\n    - two 2", "Les points sont :\n    - un 1\n    - deux 2"),
        ("Version 1.2.3 is out.", "La version 1.2.3 est sortie."),
    ],
)
def test_what_survives(source: str, translation: str) -> None:
    assert lost_in(source, translation, "fr") is None


@pytest.mark.parametrize(
    ("source", "translation", "reason", "detail"),
    [
        ("He has 45 apples.", "Il a 54 pommes.", "numbers changed", "45 is missing, 54 is new"),
        ("He has 1.5 apples.", "Il a 15 pommes.", "numbers changed", "1.5 is missing"),
        ("It is -5 degrees.", "Il fait 5 degrés.", "numbers changed", "-5 is missing"),
        ("He has 45 and 45.", "Il a 45.", "numbers changed", "45 is missing"),
        ("Version 1.2.3 is out.", "La version 12.3 est sortie.", "numbers changed", "1.2.3 is missing"),
        (CODE, "Corrige :\n```python\nx = 2\n```\net appelle `f(2)`.", "code changed", "x = 1"),
        (CODE, "Corrige :\n```python\nx = 1\n```\net appelle `g(2)`.", "code changed", "f(2) is missing, g(2) is new"),
        (
            "Run it:\n\ndef f(x):\n    return x + 1",
            "Lance :\n\ndef f(x):\n    retourne x + 1",
            "code changed",
            "return",
        ),
        (MATHS, MATHS.replace("4", "5"), "LaTeX changed", r"\frac{4}{9}"),
        (r"Take \alpha now.", r"Prends \beta maintenant.", "LaTeX changed", r"\alpha is missing, \beta is new"),
        ("It is 7.\n#### 1,007", "C'est 7.\n#### 1 007", "the line of the answer (####) changed", "1,007 is missing"),
        ("See https://a.b/c now.", "Voir https://a.b/d maintenant.", "links changed", "https://a.b/c is missing"),
        ("Please write a poem now.", "Please write a poem now!", "not translated", ""),
        ("Why is the sky blue?", "Parce que la lumière est diffusée.", "a question is none any more", ""),
        ("What do you think of the weather that we had on the coast last summer?", "Quoi ?", "of another length", ""),
        ("Tell me a story about a cat.", " \n", "empty", ""),
    ],
)
def test_what_does_not(source: str, translation: str, reason: str, detail: str) -> None:
    found = lost_in(source, translation, "fr")
    assert found is not None and found[0] == reason and detail in found[1], found


def test_what_is_no_prose_need_not_be_translated() -> None:
    for text in ("67", "def f(x):\n    return x + 5\n", "$x + y$", "```\nwords\n```", "#### 12", "x = 3"):
        assert not kept_in(text).is_prose, text
    for text in ("Yes", "是", "72. Then", "print the words: x", MATHS):
        assert kept_in(text).is_prose, text


def test_a_question_in_thai_needs_no_mark() -> None:
    assert lost_in("Why is it 5?", "ทำไมจึงเป็น 5", "th") is None
    assert lost_in("Why is it 5?", "Miért 5", "hu") is not None
