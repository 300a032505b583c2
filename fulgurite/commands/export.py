"""`fulgurite export`: a checkpoint's adapter for stock PEFT, merged into its base, or in this project's own form.

Before anything is left on disk both forwards run on a probe batch in fp32, the adapter's branches beside the base
and the merged weights W + s·B diag(g) A, and then what was written is loaded again by its reader. A difference
above the tolerance, relative to the largest logit, fails: a merged model that does not compute what was trained is
the commonest complaint about such tools.
"""

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.table import Table
from torch import nn

from fulgurite.adapters import Adapter
from fulgurite.commands.checkpoint_files import load_module
from fulgurite.console import say, shortest
from fulgurite.data.conditions import CONDITION_FILE
from fulgurite.data.playground import documents, resolve_backbone
from fulgurite.data.tokenizers import load_tokenizer
from fulgurite.models import load_backbone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fulgurite.lightning_modules import FinetuneModule

__all__ = ["export"]

_PEFT_TASKS = {
    "classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "causal_lm": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
}


def export(
    ckpt_path: str,
    out: str,
    format: Literal["peft", "merged", "adapter"] = "peft",
    rank_pattern: bool = False,
    tolerance: float = 1e-5,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint's adapter into a folder, after checking that it computes what was trained.

    Args:
        ckpt_path: a .ckpt file that `fulgurite fit` wrote.
        out: the folder to make.
        format: peft for stock PEFT and vLLM, merged for a plain transformers model, adapter for fulgurite.adapters.
        rank_pattern: with peft, write each module's own rank instead of padding all to one.
        tolerance: largest difference allowed, relative to the largest logit.
        overwrite: replace the folder if it is there.
    """
    target = Path(out)
    if target.exists() and not overwrite:
        raise FileExistsError(f"export: {out} is there already; give another --out, or --overwrite true to replace it")
    if tolerance <= 0:
        raise ValueError(f"export: tolerance {tolerance} was given; allowed are positive numbers such as 1e-5")
    module = load_module(ckpt_path)
    module.configure_model()
    adapter = module.adapter
    if adapter is None and format != "merged":
        raise ValueError(
            f"export: {shortest(ckpt_path)} holds no adapter, its whole network was trained; --format merged writes that network"
        )
    begun = getattr(module, "init_adapter", None)
    if begun is not None and format != "merged":
        raise ValueError(
            f"export: the adapter of {shortest(ckpt_path)} stands on a base into which {begun} was merged, so that on the base "
            "alone it computes something else; --format merged writes the whole model"
        )
    tokenizer = load_tokenizer(module.backbone)
    if module.chat_template is not None:
        tokenizer.chat_template = module.chat_template  # what was trained with is what has to be served with
    table = _summary(adapter, module)  # before a merge takes the adapter off
    with _whole_or_nothing(target) as folder:
        if format == "merged":
            _write_merged(module, tokenizer, folder, tolerance)
        else:
            assert adapter is not None
            _write_adapter(module, adapter, tokenizer, folder, format, rank_pattern, tolerance)
        tokenizer.save_pretrained(folder)
        conditions = getattr(module, "conditions", None)
        if conditions is not None:
            (folder / CONDITION_FILE).write_text(json.dumps(conditions.to_dict(), indent=2) + "\n", encoding="utf-8")
        for file in sorted(folder.glob("*.safetensors")):
            table.add_row(file.name, f"{file.stat().st_size / 2**20:.2f} MiB")
    say(table, f"written: {shortest(target)}")


def _write_adapter(
    module: "FinetuneModule",
    adapter: Adapter,
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    format: str,
    rank_pattern: bool,
    tolerance: float,
) -> None:
    network = _network(module)
    batch = _probe(tokenizer, module.task)
    with _in_fp32(network):
        expected = _logits(network, batch)
        adapter.merge(reversible=True)
        merged = _logits(network, batch)
        adapter.unmerge()
    _compare("merged", merged, expected, tolerance)
    if format == "adapter":
        adapter.save(folder)
        return
    base = resolve_backbone(module.backbone)
    adapter.export_peft(folder, rank_pattern=rank_pattern, base_model=base, task_type=_PEFT_TASKS[module.task])
    loaded = _with_peft(module, base, folder)
    if loaded is None:
        say("PEFT is not installed, so the folder was not loaded with it; pip install peft to have that checked too")
    else:
        _compare("PEFT", _logits(loaded, batch), expected, tolerance)


def _write_merged(
    module: "FinetuneModule", tokenizer: "PreTrainedTokenizerBase", folder: Path, tolerance: float
) -> None:
    network, adapter = _network(module), module.adapter
    batch = _probe(tokenizer, module.task)
    with _in_fp32(network):
        expected = _logits(network, batch)
        if adapter is not None:
            adapter.merge()
            _compare("merged", _logits(network, batch), expected, tolerance)
            adapter.detach()
    with _no_progress_bar():
        network.save_pretrained(folder)
    stored = next(network.parameters()).dtype
    if stored == torch.float32:
        again = load_backbone(str(folder), module.task, num_labels=module.num_labels).model.eval()
        _compare("reloaded", _logits(again, batch), expected, tolerance)
    else:
        say(f"the weights are stored in {stored}, as the base was; the figures above are those of float32")


def _with_peft(module: "FinetuneModule", base: str, folder: Path) -> nn.Module | None:
    """The folder on a fresh base, loaded by stock PEFT; None where PEFT is not installed."""
    try:
        from peft import PeftModel
    except ImportError:
        return None
    # Rounded as the trained base was, then computed in fp32 like the figures it is compared with.
    fresh = load_backbone(base, module.task, num_labels=module.num_labels, dtype=module.dtype_name).model.float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses names that transformers is about to rename
        loaded: nn.Module = PeftModel.from_pretrained(fresh, str(folder))
    return loaded.float().eval()


def _network(module: "FinetuneModule") -> Any:
    if module.network is None:
        raise ValueError(
            f"export: {type(module).__name__} has no network after configure_model; its class must build one"
        )
    return module.network.eval()


def _probe(tokenizer: "PreTrainedTokenizerBase", task: str) -> dict[str, torch.Tensor]:
    """A batch of four texts of different lengths, (4, at most 64) tokens."""
    texts = list(documents(seed=0, count=4))
    encoded = dict(tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt"))
    if task == "seq2seq":
        encoded["decoder_input_ids"] = encoded["input_ids"]
    return encoded


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Within the block transformers draws no progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _in_fp32(network: nn.Module) -> Iterator[None]:
    """Within the block the weights are fp32; afterwards each has its dtype back."""
    dtypes = {name: parameter.dtype for name, parameter in network.named_parameters()}
    network.float()
    try:
        yield
    finally:
        for name, parameter in network.named_parameters():
            parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))


@torch.no_grad()
def _logits(network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = network(**batch).logits
    if "decoder_input_ids" in batch or logits.dim() == 2:
        return logits.float()
    # What stands at padded positions is nobody's prediction.
    return logits[batch["attention_mask"].bool()].float()


def _compare(name: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Prints the largest difference, and refuses one above the tolerance."""
    largest = expected.abs().max().item()
    difference = (found - expected).abs().max().item()
    relative = difference / largest if largest else difference
    say(f"max |{name} − adapter| = {difference:.1e} ({relative:.1e} of the largest logit)")
    if not relative <= tolerance:
        raise ValueError(
            f"export: the {name} model differs from the trained one by {relative:.1e} of the largest logit, allowed is "
            f"{tolerance:.1e}; nothing was written; a base in bf16 may need a larger --tolerance"
        )


@contextlib.contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when the block ends well, and disappears when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    folder.chmod(0o755)
    try:
        yield folder
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.replace(old / target.name)
            folder.replace(target)
            shutil.rmtree(old)
        else:
            folder.replace(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _summary(adapter: Adapter | None, module: "FinetuneModule") -> Table:
    table = Table(title="export", title_justify="left", title_style="bold", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    if adapter is None:
        table.add_row("parameters", f"{sum(p.numel() for p in _network(module).parameters()):,}")
        return table
    for what, figure in adapter.summary():
        table.add_row(what, figure)
    heads = sum(p.numel() for head in adapter.heads.values() for p in head.parameters())
    table.add_row("head parameters", f"{heads:,}")
    return table
