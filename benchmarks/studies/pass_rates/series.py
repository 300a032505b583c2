"""Study: a series of playground models of six sizes, how often each passes a task, and is the largest predicted by the others?

    python -m benchmarks.studies.pass_rates.series [--parts rows,models,train,law] [--out runs/series] [--sizes 1,2,3] [--steps 400]

Sizes follow the rule of arXiv 2310.03262 (layers 4i, heads floor(i (8 + i) / 4), head width 64, a gated feed-forward layer of 2.5
widths), scaled down: i layers, the same heads, head width 8. All are Llamas with the playground's tokenizer and are trained by
`fulgurite fit --config configs/series_playground.yaml` from random weights on the same rows in the same order. The learning rate is
inverse to the width: with one rate for all, the training losses of the two largest sizes stay above that of the fourth.

The task: seven to nine digits are to be sorted ("Q: sort 50331727" is answered by "A: 01233577"). All digits have to be right, so
that guessing passes once in ten million draws or more rarely. No string of digits that is asked stands in the training rows. The
task is a file in BIG-bench's form, for `--tasks bigbench_written`.

`law` draws the smaller models, writes what they predict for the largest to OUT/before, and only then draws the largest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fulgurite.cli import main as fulgurite
from fulgurite.data.playground.draw import Draw
from fulgurite.data.playground.registry import BACKBONES
from fulgurite.whole_files import write_text

__all__ = ["CONFIG", "SIZES", "ask", "law", "main", "shape", "train", "write_models", "write_rows"]

CONFIG = Path(__file__).parents[3] / "configs" / "series_playground.yaml"
SIZES = (1, 2, 3, 4, 5, 6)
_HEAD = 8  # width of a head
_TRAINED, _ASKED = 40_000, 40  # rows to train on; instances of the task
_RATE, _MIDDLE = 3e-3, 64  # the learning rate at this width; it falls with the width
_EVERY = 100  # steps between checkpoints
_LONGEST, _BATCH = 16, 64  # tokens of an answer at most (the longest right one has 11); answers drawn at once


def shape(i: int) -> dict[str, int]:
    """Layers, heads and widths of the i-th size.

    Args:
        i: from 1.
    """
    heads = i * (8 + i) // 4
    width = heads * _HEAD
    return {"layers": i, "heads": heads, "width": width, "feed_forward": round(2.5 * width)}


def write_rows(out: Path, trained: int = _TRAINED, asked: int = _ASKED) -> None:
    """Writes OUT/train.jsonl (texts) and OUT/task.json (BIG-bench's form); no string that is asked stands in the texts.

    Args:
        out: the folder.
        trained: rows to train on.
        asked: instances of the task.
    """
    task = _digits("task", asked)
    texts = [
        json.dumps({"text": f"Q: sort {digits}\nA: {_sorted(digits)}"})
        for digits in _digits("train", trained + asked)
        if digits not in task
    ]
    write_text(out / "train.jsonl", "\n".join(texts[:trained]) + "\n")
    examples = [{"input": f"sort {digits}", "target": _sorted(digits)} for digits in task]
    write_text(out / "task.json", json.dumps({"name": "sort digits", "examples": examples}, indent=1) + "\n")


def _digits(name: str, count: int) -> dict[str, None]:
    """Strings of seven to nine digits, each once, in a fixed order."""
    draw, found = Draw(f"series|{name}"), {}
    while len(found) < count:
        found["".join(str(draw.integer(0, 9)) for _ in range(draw.integer(7, 9)))] = None
    return found


def _sorted(digits: str) -> str:
    return "".join(sorted(digits))


def write_models(out: Path, sizes: Sequence[int] = SIZES) -> None:
    """Writes OUT/models/i: config.json and the playground's tokenizer, what `fit` needs to begin from random weights.

    Args:
        out: the folder.
        sizes: which i.
    """
    base = BACKBONES["playground"]
    config = json.loads((base / "config.json").read_text())
    for i in sizes:
        own = shape(i)
        folder = out / "models" / str(i)
        changed = {
            "num_hidden_layers": own["layers"],
            "num_attention_heads": own["heads"],
            "num_key_value_heads": own["heads"],
            "hidden_size": own["width"],
            "head_dim": _HEAD,
            "intermediate_size": own["feed_forward"],
        }
        write_text(folder / "config.json", json.dumps({**config, **changed}, indent=2) + "\n")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            write_text(folder / name, (base / name).read_text())


def train(out: Path, sizes: Sequence[int], steps: int | None) -> None:
    """Trains each size; OUT/fit/i/checkpoints/last.ckpt is left, and the seconds in OUT/seconds.json, by the clock and of CPU."""
    kept = out / "seconds.json"
    seconds: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for i in sizes:
        begun, worked = time.perf_counter(), time.process_time()
        words = ["fit", "--config", str(CONFIG), "--model.backbone", str(out / "models" / str(i))]
        words += [
            "--data.train_path",
            str(out / "train.jsonl"),
            "--trainer.default_root_dir",
            str(out / "fit" / str(i)),
        ]
        words += ["--model.learning_rate", f"{_RATE * _MIDDLE / shape(i)['width']:.3g}"]
        words += ["--trainer.max_steps", str(steps)] if steps else []
        # Weights along the way; such a callback stands in the place of the one that keeps last.ckpt, so that it keeps it too.
        keeper = {"dirpath": out / "fit" / str(i) / "checkpoints", "every_n_train_steps": _EVERY, "save_top_k": -1}
        words += ["--trainer.callbacks+=ModelCheckpoint"]
        for name, value in {**keeper, "save_last": "true", "save_weights_only": "true"}.items():
            words += [f"--trainer.callbacks.{name}", str(value)]
        _run([*words, "--trainer.enable_progress_bar", "false"])
        spent = {"clock": time.perf_counter() - begun, "cpu": time.process_time() - worked}
        seconds[str(i)] = {name: round(value, 1) for name, value in spent.items()}
        write_text(kept, json.dumps(seconds, indent=1) + "\n")


def ask(out: Path, i: int, passes: int, cap: int) -> Path:
    """Draws a size until the task has its passes; returns the file of its counts, OUT/counts/i.csv, with a short model name.

    Args:
        out: the folder.
        i: which size.
        passes: r of the task.
        cap: draws of the task at most.
    """
    folder, weights = out / "asked" / str(i), str(out / "fit" / str(i) / "checkpoints" / "last.ckpt")
    words = [
        "evaluate",
        "--model",
        weights,
        "--tasks",
        "bigbench_written",
        "--path",
        str(out / "task.json"),
        "--out",
        str(folder),
    ]
    words += ["--until_passes", str(passes), "--until_passes_of", "task", "--cap", str(cap)]
    _run([*words, "--max_new_tokens", str(_LONGEST), "--batch_size", str(_BATCH)])
    counts = out / "counts" / f"{i}.csv"
    write_text(counts, (folder / "bigbench_written" / "counts.csv").read_text().replace(weights, f"i = {i}"))
    return counts


def law(out: Path, sizes: Sequence[int], passes: int, cap: int) -> dict[str, Any]:
    """The largest size predicted from the others before it is drawn, then drawn; OUT/before and OUT/law are left.

    Args:
        out: the folder.
        sizes: which sizes, four or more.
        passes: r of the task.
        cap: draws of the task at most.
    """
    *smaller, largest = sorted(sizes)
    files = [ask(out, i, passes, cap) for i in smaller]
    target = _parameters(out, largest)
    _scale(files, out / "before", ["--predict", f"[{target:.0f}]"])
    before = json.loads((out / "before" / "scaling.json").read_text())
    files.append(ask(out, largest, passes, cap))
    _scale(files, out / "law", ["--fit_up_to", str(_parameters(out, smaller[-1]))])
    found = json.loads((out / "law" / "scaling.json").read_text())
    rows = [
        {
            "i": i,
            **shape(i),
            **{name: score[name] for name in ("size", "pu", "low", "high", "draws", "passed", "f", "f_error")},
            "expected passes of 100 draws": 100 * score["pu"],
        }
        for i, score in zip(sorted(sizes), found["scores"], strict=True)
    ]
    return {
        "sizes": rows,
        "predicted before it was drawn": before["predictions"],
        "law of the smaller ones": before["law"],
        "verdict on the smaller ones": [before["verdict"], before["reasons"]],
        "predicted beside measured": found["predictions"],
    }


def _parameters(out: Path, i: int) -> float:
    """Of a size without embeddings, the final norm counted as `evaluate` counts it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from fulgurite.commands.evaluate.until_passes import size_of

    with torch.device("meta"):
        found = size_of(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out / "models" / str(i))))
    assert found is not None
    return found


def _scale(files: Sequence[Path], folder: Path, more: Sequence[str]) -> None:
    _run(["scaling", "--counts", ",".join(map(str, files)), "--out", str(folder), *more])


def _run(words: list[str]) -> None:
    if fulgurite(words):
        raise SystemExit(f"series: fulgurite {' '.join(words)} failed")


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts; `law` prints its table and writes OUT/series.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", default="rows,models,train,law")
    parser.add_argument("--out", type=Path, default=Path("runs/series"))
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--steps", type=int, help="of training; the recipe's unless given")
    parser.add_argument("--passes", type=int, default=60)
    parser.add_argument("--cap", type=int, default=40_000)
    options = parser.parse_args(arguments)
    sizes = [int(word) for word in options.sizes.split(",")]
    parts: dict[str, Callable[[], Any]] = {
        "rows": lambda: write_rows(options.out),
        "models": lambda: write_models(options.out, sizes),
        "train": lambda: train(options.out, sizes, options.steps),
        "law": lambda: law(options.out, sizes, options.passes, options.cap),
    }
    for name in options.parts.split(","):
        found = parts[name]()
        if found is not None:
            write_text(options.out / "series.json", json.dumps(found, indent=1) + "\n")
            print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
