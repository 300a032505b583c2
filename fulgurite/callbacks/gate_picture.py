"""Which specialist wrote what: text coloured by a gate's weights, as HTML and as PNG, and mean weights as bars.

A token's colour is the specialists' colours mixed by their weights, so that a token of one specialist has its plain
colour and one that several share is grey.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from fulgurite.callbacks.picture import save
from fulgurite.whole_files import write_text

__all__ = ["GateTokens", "draw_gate_text", "draw_gate_weights", "gate_colour", "write_gate_html"]

# Colours that remain apart for the colour-blind (Okabe and Ito), light enough for black letters on them.
_COLOURS = ((86, 180, 233), (240, 180, 60), (60, 190, 140), (204, 140, 180), (240, 228, 66), (213, 120, 60))
_COLUMNS = 88

# A prompt, and the tokens of its answer, each as text with one weight per specialist.
GateTokens = tuple[str, Sequence[tuple[str, Sequence[float]]]]


def gate_colour(weights: Sequence[float]) -> str:
    """The colour of a token as "#rrggbb".

    Args:
        weights: of the specialists, which sum to 1
    """
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(weights))]
    mixed = [sum(w * colour[channel] for w, colour in zip(weights, colours, strict=True)) for channel in range(3)]
    return "#" + "".join(f"{min(255, max(0, round(value))):02x}" for value in mixed)


def write_gate_html(answers: Sequence[GateTokens], names: Sequence[str], file: Path) -> None:
    """A page with every answer, its tokens coloured; a token's weights appear where the pointer rests on it.

    Args:
        answers: prompts with the tokens of their answers
        names: of the specialists
        file: where to; its folder is made
    """
    legend = " ".join(
        f'<span class="t" style="background:{gate_colour(_one_hot(i, len(names)))}">{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>gate weights</title><style>',
        "body{font:15px/1.6 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#111;background:#fff}",
        "pre{white-space:pre-wrap;font:14px/1.7 ui-monospace,monospace}.p{color:#666}.t{border-radius:3px;padding:1px 0}",
        f"</style></head><body><h1>Gate weights per token</h1><p>{legend}</p>",
    ]
    for prompt, tokens in answers:
        parts.append(f'<pre><span class="p">{escape(prompt)}</span>\n')
        for text, weights in tokens:
            told = ", ".join(f"{name} {w:.2f}" for name, w in zip(names, weights, strict=True))
            colour = gate_colour(weights)
            parts.append(f'<span class="t" style="background:{colour}" title="{escape(told, quote=True)}">')
            parts.append(f"{escape(text)}</span>")
        parts.append("</pre>\n")
    parts.append("</body></html>\n")
    write_text(file, "".join(parts))


def draw_gate_text(answers: Sequence[GateTokens], names: Sequence[str], file: Path) -> None:
    """The same as a PNG.

    Args:
        answers: prompts with the tokens of their answers
        names: of the specialists
        file: where to; its folder is made
    """
    from matplotlib.figure import Figure

    rows: list[list[tuple[str, str | None]]] = [
        [(f" {name} ", gate_colour(_one_hot(i, len(names))))] for i, name in enumerate(names)
    ]
    rows = [[piece for row in rows for piece in [*row, ("  ", None)]], []]
    for prompt, tokens in answers:
        pieces = [(prompt + "\n", None), *((text, gate_colour(weights)) for text, weights in tokens)]
        rows += [*_wrapped(pieces), []]
    figure = Figure(figsize=(0.092 * _COLUMNS + 0.3, 0.24 * len(rows) + 0.2), dpi=110)
    axes = figure.add_axes((0.02, 0.0, 0.97, 1.0))
    axes.set_xlim(0, _COLUMNS)
    axes.set_ylim(len(rows), 0)
    axes.axis("off")
    for y, row in enumerate(rows):
        x = 0
        for text, colour in row:
            if colour is not None:
                axes.barh(y + 0.5, len(text), left=x, height=0.86, color=colour)
            # One letter at a time: a font's own width need not be that of the columns.
            for i, letter in enumerate(text):
                shade = "0.45" if colour is None else "black"
                # "$" would begin a formula.
                axes.text(
                    x + i + 0.5,
                    y + 0.55,
                    letter.replace("$", r"\$"),
                    family="monospace",
                    size=8.5,
                    ha="center",
                    va="center",
                    color=shade,
                )
            x += len(text)
    save(figure, file)


def draw_gate_weights(means: Mapping[str, Sequence[float]], names: Sequence[str], file: Path) -> None:
    """Mean weights as bars, one group per domain.

    Args:
        means: for each domain the mean weight of each specialist on its tokens
        names: of the specialists
        file: where to; its folder is made
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 1.7 * len(means), 3.3), layout="constrained", dpi=110)
    axes = figure.subplots()
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        places = [x + (i - (len(names) - 1) / 2) * width for x in range(len(means))]
        bars = axes.bar(
            places,
            [values[i] for values in means.values()],
            width,
            color=gate_colour(_one_hot(i, len(names))),
            label=name,
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(range(len(means)), [f"{domain} rows" for domain in means])
    axes.set_ylim(0, 1.1)
    axes.set_ylabel("mean gate weight")
    figure.legend(loc="outside upper center", ncols=min(len(names), 4), fontsize=8)
    save(figure, file)


def _one_hot(place: int, count: int) -> list[float]:
    return [float(i == place) for i in range(count)]


def _wrapped(pieces: Sequence[tuple[str, str | None]]) -> list[list[tuple[str, str | None]]]:
    """Rows of at most `_COLUMNS` letters; a newline begins a row."""
    rows: list[list[tuple[str, str | None]]] = [[]]
    used = 0
    for text, colour in pieces:
        for number, line in enumerate(text.expandtabs(4).split("\n")):
            if number:
                rows.append([])
                used = 0
            while line:
                room = _COLUMNS - used
                if room <= 0:
                    rows.append([])
                    used, room = 0, _COLUMNS
                rows[-1].append((line[:room], colour))
                used += len(line[:room])
                line = line[room:]
    return rows
