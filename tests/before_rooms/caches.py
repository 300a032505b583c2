"""Caches of tokenised rows and of reference log-probabilities."""

from __future__ import annotations

import csv
import importlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.before_rooms.comparing import Values, chdir, entries, number, quiet


def datamodule(place: Path, cache_dir: str) -> Any:
    """The datamodule of caches/NAME/datamodule.json."""
    described = json.loads((place / "datamodule.json").read_text())
    cls = getattr(importlib.import_module("fulgurite.datamodules"), described["class_path"].rpartition(".")[2])
    return cls(**described["init_args"], cache_dir=cache_dir)


def cache(folder: Path, name: str, tags: Sequence[str]) -> Values:
    """The rows that caches/NAME gives: batches, lengths, and whether the old entries were read or others made.

    Tags are numbered as in `tags`, whatever order they are found in.

    "hit" is true where no entry was added. After a change of format it may become false; what the batches hold may not change.
    """
    place = folder / "caches" / name
    before = entries(place)
    with chdir(folder), quiet():
        data = datamodule(place, f"caches/{name}")
        data.prepare_data()
        data.setup("fit")
        given = list(getattr(data, "tag_names", []) or [])
        assert sorted(given) == sorted(tags)
        numbers = torch.tensor([list(tags).index(tag) for tag in given])
        found: Values = {"tags": list(tags), "task": data.task_type}
        for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
            batches = list(loader) if len(loader) else []
            batches = [
                {**batch, "tag": numbers[batch["tag"]]} if given and "tag" in batch else batch for batch in batches
            ]
            found[split] = {"batches": len(batches), "sums": _sums(batches)}
    after = entries(place)
    assert {key: after.get(key) for key in before} == before, f"an old entry of {name} was changed"
    found["hit"] = set(after) == set(before)
    return found


def _sums(batches: list[Any]) -> Values:
    """Of each tensor of the batches: how many numbers, and their sum weighted by position, which an exchange changes too."""
    found: Values = {}
    for batch in batches:
        for key, value in batch.items():
            if not isinstance(value, torch.Tensor):
                continue
            if key == "key":  # 63 bits, more than a float holds
                known = int(found.get(key, "0"), 16)
                found[key] = f"{known + int(sum(value.tolist())):x}"
                continue
            flat = value.detach().double().flatten().nan_to_num(-7.0)
            weights = torch.arange(1, flat.numel() + 1, dtype=torch.float64).remainder(1009) + 1
            count, total = found.get(key, (0, 0.0))
            found[key] = [count + flat.numel(), round(total + float((flat * weights).sum()), 4)]
    return found


def reference(folder: Path) -> Values:
    """A fit beside the cache of reference log-probabilities that an earlier fit left, and one that names it, which is refused.

    The old file tells weights apart by a sample of their elements, so that another one is made.
    """
    from fulgurite.cli import main

    place = folder / "caches" / "reference"
    before = entries(place)
    file = next(place.glob("reference/*.safetensors"))
    with chdir(folder), quiet(), tempfile.TemporaryDirectory() as root:
        words = ["fit", "--config", "runs/preference_cached/config.yaml", "--trainer.default_root_dir"]
        assert main([*words, f"{root}/found"]) == 0
        rows = [row for file in Path(root).glob("**/metrics.csv") for row in csv.DictReader(file.open())]
        assert main([*words, f"{root}/named", "--model.reference_cache", str(file.relative_to(folder))]) == 1
    losses = [number(float(row["train_loss"])) for row in rows if row.get("train_loss")]
    return {"losses": [losses, losses], "hit": set(before) <= set(entries(place)), "completions": _count(file)}


def _count(file: Path) -> int:
    from safetensors.torch import load_file

    return len(load_file(file)["keys"])
