"""One training example, as the model sees it, printed before the first step.

Most silent failures of fine-tuning are visible here: a wrong template, a cut text, labels on the prompt, no label
at all. Tokens that are trained on are bright and the others dimmed; where the output has no colours they stand
between « and ».
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import rich
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.panel import Panel
from rich.text import Text

from fulgurite.console import say
from fulgurite.data.trees.rows import path_to

__all__ = ["SamplePrinter"]


class SamplePrinter(Callback):
    """Prints the first row of the first batch of a new fit, on the first process only.

    Args:
        max_tokens: tokens shown at most
    """

    def __init__(self, max_tokens: int = 256) -> None:
        if max_tokens < 1:
            raise ValueError(f"SamplePrinter: max_tokens is {max_tokens}; at least 1 is allowed")
        self.max_tokens = max_tokens
        self._done = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Prints, once; a resumed fit prints nothing.

        Args:
            trainer: the trainer
            pl_module: its module
            batch: the batch
            batch_idx: its position in the epoch
        """
        if self._done or trainer.global_step > 0 or not trainer.is_global_zero:
            return
        self._done = True
        fused = isinstance(batch, Mapping) and "sources" in batch and isinstance(batch.get("input_ids"), list)
        if not isinstance(batch, Mapping) or not (fused or isinstance(batch.get("input_ids"), torch.Tensor)):
            return
        tokenizer = _tokenizer(trainer, pl_module)
        names = getattr(getattr(trainer, "datamodule", None), "label_names", None)
        if rich.get_console().is_terminal:
            text = self.render(batch, tokenizer, names, colours=True)
            say(Panel(text, title="first training example"))
        else:
            say("first training example:", self.render(batch, tokenizer, names, colours=False))

    def render(self, batch: Mapping[str, Any], tokenizer: Any, names: list[str] | None, colours: bool) -> Text:
        """The first row of a batch as text.

        Args:
            batch: tensors input_ids and, where there are any, attention_mask and labels
            tokenizer: decodes; None shows the token numbers
            names: names of the classes
            colours: whether styles will be seen; else supervised text stands between « and »
        """
        if isinstance(batch["input_ids"], list):
            return self._views(batch, tokenizer, colours)
        if "owner" in batch:
            return self._comparison(
                {k: v.cpu() for k, v in batch.items() if isinstance(v, torch.Tensor)}, tokenizer, colours
            )
        kept = batch["attention_mask"][0].bool().cpu() if "attention_mask" in batch else None
        ids = batch["input_ids"][0].cpu()
        labels = batch.get("labels")
        bright = torch.zeros_like(ids, dtype=torch.bool)
        per_token = isinstance(labels, torch.Tensor) and labels.dim() == 2
        if per_token and labels is not None:
            bright = labels[0].cpu() != -100
        if kept is not None:
            ids, bright = ids[kept], bright[kept]
        total = len(ids)
        ids, bright = ids[: self.max_tokens], bright[: self.max_tokens]
        text = Text(no_wrap=False)
        for start, stop in _runs(bright.tolist()):
            piece = _decode(tokenizer, ids[start:stop].tolist())
            supervised = bool(bright[start])
            if not per_token:
                text.append(piece)
            elif colours:
                text.append(piece, style="bold bright_green" if supervised else "dim")
            else:
                text.append(f"«{piece}»" if supervised else piece)
        if total > len(ids):
            text.append(f" … {total - len(ids)} tokens more", style="dim italic")
        if per_token:
            text.append(f"\n{int(bright.sum())} of {len(ids)} tokens are trained on", style="italic")
        elif isinstance(labels, torch.Tensor):
            text.append("\nlabel: ").append(_label(labels[0], names), style="bold bright_green" if colours else "")
        return text

    def _views(self, batch: Mapping[str, Any], tokenizer: Any, colours: bool) -> Text:
        """The first row of a batch for several specialists: what each of them sees, and the answer that all are asked for."""
        answer = batch["targets"][batch["row"] == 0].cpu()
        text = Text(no_wrap=False)
        for place, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
            seen = ids[0][mask[0].bool()].cpu()
            # The answer's last token is predicted and not read, so it does not stand there.
            whole = torch.cat([seen, answer[-1:]])
            labels = torch.full_like(whole, -100)
            labels[len(whole) - len(answer) :] = answer
            text.append(f"specialist {place}:\n", style="italic")
            text.append_text(self.render({"input_ids": whole[None], "labels": labels[None]}, tokenizer, None, colours))
            text.append("\n")
        return text

    def _comparison(self, batch: Mapping[str, torch.Tensor], tokenizer: Any, colours: bool) -> Text:
        """The first pair (or labelled answer) of a batch of trees: its prompt, and the answers that are trained on."""
        if len(batch["pairs"]):
            shown = list(zip(("chosen", "rejected"), batch["pairs"][0].tolist(), strict=True))
        else:
            first = next((i for i, label in enumerate(batch["desirable"].tolist()) if label >= 0), 0)
            shown = [({1: "desirable", 0: "undesirable"}.get(int(batch["desirable"][first]), "answer"), first)]
        text = Text(no_wrap=False)
        prompt = path_to(batch, int(batch["sources"][batch["owner"] == shown[0][1]][0]))
        # Conditions and a system's words stand at the beginning of a prompt, the question at its end.
        half = max(1, self.max_tokens // 2)
        parts = [prompt] if len(prompt) <= self.max_tokens else [prompt[:half], prompt[-half:]]
        for i, part in enumerate(parts):
            text.append(" … " if i else "", style="dim italic")
            text.append(_decode(tokenizer, part.tolist()), style="dim" if colours else "")
        for name, completion in shown:
            ids = batch["targets"][batch["owner"] == completion]
            piece = _decode(tokenizer, ids[: self.max_tokens].tolist())
            style = (
                ("bold bright_red" if name in ("rejected", "undesirable") else "bold bright_green") if colours else ""
            )
            text.append(f"\n{name}: ", style="italic").append(piece if colours else f"«{piece}»", style=style)
            if len(ids) > self.max_tokens:
                text.append(f" … {len(ids) - self.max_tokens} tokens more", style="dim italic")
        return text


def _runs(flags: list[bool]) -> list[tuple[int, int]]:
    """Stretches of equal flags as (start, stop)."""
    edges = [0, *(i for i in range(1, len(flags)) if flags[i] != flags[i - 1]), len(flags)]
    return [(start, stop) for start, stop in pairwise(edges) if stop > start]


def _decode(tokenizer: Any, ids: list[int]) -> str:
    if tokenizer is None:
        return " ".join(map(str, ids))
    return str(tokenizer.decode(ids, skip_special_tokens=False))


def _label(label: torch.Tensor, names: list[str] | None) -> str:
    if label.is_floating_point():
        return f"{label.item():g}"
    index = int(label.item())
    if index == -100:
        return "none (this row only fills the batch)"
    return f"{index} ({names[index]})" if names and 0 <= index < len(names) else str(index)


def _tokenizer(trainer: Trainer, pl_module: LightningModule) -> Any:
    """The datamodule's tokenizer, else the backbone's, else None: a printer must not stop a foreign module's run."""
    load = getattr(getattr(trainer, "datamodule", None), "load_tokenizer", None)
    if callable(load):
        return load()
    backbone = pl_module.hparams.get("backbone") if hasattr(pl_module, "hparams") else None
    if not isinstance(backbone, str):
        return None
    from fulgurite.data.encoding.tokenizers import load_tokenizer

    return load_tokenizer(backbone)
