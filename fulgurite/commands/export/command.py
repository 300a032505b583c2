"""`fulgurite export`: a checkpoint's adapter for stock PEFT, merged into its base, or in this project's own form.

The trained model computes the logits of a probe batch in fp32. Then the program that will read the folder loads what was
written and computes them again: stock PEFT, stock transformers, or fulgurite. If they differ by more than the tolerance,
relative to the largest logit, the export fails and nothing is left on disk: a merged model that does not compute what was
trained is the commonest complaint about such tools. Weights are merged, W + s·B diag(g) A, for the merged format only,
because some layers cannot be merged (tied or quantised ones) whose adapter may well leave by itself.

A text model's folder has a generation configuration that stops at the end tokens of the chat template (see stops.py).

Reward models are written merged, in one of two layouts: transformers' sequence classification with one label, or that
of UltraRM and Eurus-RM. PEFT cannot carry a head on the last token, so that format is refused for them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.table import Table

from fulgurite.adapters import Adapter, load_adapter
from fulgurite.adapters.counting import scalars_in
from fulgurite.adapters.low_rank.stacking import attach_sum
from fulgurite.commands.export.checks import (
    compare,
    in_fp32,
    logits_of,
    merge_checked,
    no_progress_bar,
    probe,
    widened,
    with_peft,
)
from fulgurite.commands.export.folder import check_target, refuse_around
from fulgurite.commands.export.reward import write_reward_model
from fulgurite.commands.export.stops import check_stops, stopping_config
from fulgurite.commands.shared.checkpoint_files import load_module, read_checkpoint
from fulgurite.commands.shared.unused import refuse_unused
from fulgurite.console import say, shortest
from fulgurite.data.conditions.objectives import CONDITION_FILE
from fulgurite.data.encoding.templates import lay_stored
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.lightning_modules.checks.initial_weights import low_rank_parts
from fulgurite.models import RewardModel, load_backbone
from fulgurite.models.gguf_files import gguf_file
from fulgurite.models.padding import padding_named
from fulgurite.whole_files import whole_folder

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
    layout: Literal["sequence_classification", "regression_head"] | None = None,
    tolerance: float = 1e-5,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Writes a checkpoint's adapter into a folder, after checking that it computes what was trained.

    Args:
        ckpt_path: a .ckpt file that `fulgurite fit` wrote.
        out: the folder to make.
        format: peft for stock PEFT and vLLM, merged for a plain transformers model, adapter for fulgurite.adapters.
        rank_pattern: with peft, write each module's own rank instead of padding all to one.
        layout: of a merged reward model: transformers' one-label classifier, or UltraRM's and Eurus-RM's; none takes the
            former where transformers has it.
        tolerance: largest difference allowed, relative to the largest logit.
        overwrite: replace the folder if an earlier export lies there.
        trust_remote_code: run code that came with the backbone; only as it is typed here, whatever a checkpoint says.
    """
    target = check_target(out, ckpt_path, overwrite)
    if tolerance <= 0:
        raise ValueError(f"export: tolerance {tolerance} was given; allowed are positive numbers such as 1e-5")
    if format != "peft":
        refuse_unused("export", f"with --format {format}", rank_pattern=(rank_pattern, False))
    trained_on = (read_checkpoint(ckpt_path, mmap=True).get("hyper_parameters") or {}).get("quantize")
    module = load_module(ckpt_path, trust_remote_code, in_full=True)
    if trained_on is not None:
        say(
            f"trained on the base quantised to {trained_on}; what is written and compared below stands on the full-precision base"
        )
    refuse_around(target, resolve_backbone(module.backbone), "base model")
    module.configure_model()
    if not module.exports:
        reason = getattr(module, "instead_of_export", "what was trained cannot leave as one model or adapter")
        raise ValueError(f"export: {shortest(ckpt_path)} is a {type(module).__name__}: {reason}")
    adapter = module.adapter
    reward = isinstance(module.network, RewardModel)
    if layout is not None and not (reward and format == "merged"):
        raise ValueError(
            f"export: --layout {layout} is for reward models with a head on the last token, and --format merged; leave it out"
        )
    if reward and format == "peft":
        raise ValueError(
            f"export: {shortest(ckpt_path)} is a reward model, whose head on the last token PEFT does not know; give "
            "--format merged (--layout sequence_classification or regression_head), or --format adapter for fulgurite"
        )
    if adapter is None and format != "merged":
        raise ValueError(
            f"export: {shortest(ckpt_path)} holds no adapter, its whole network was trained; --format merged writes that network"
        )
    if module.vocabulary.grown and format != "merged":
        raise ValueError(
            f"export: {shortest(ckpt_path)} has rows for new tokens in its embedding, which no base has; give --format merged"
        )
    if format != "merged":
        adapter = _from_the_base(module, ckpt_path)
    tokenizer = load_tokenizer(module.vocabulary.tokenizer or module.backbone)
    lay_stored(tokenizer, module.chat_template)  # what was trained with is what has to be served with
    table = _summary(adapter, module)  # before a merge takes the adapter off
    with whole_folder(target) as folder:
        if format == "merged" and isinstance(module.network, RewardModel):
            write_reward_model(module, tokenizer, folder, layout, tolerance)
        elif format == "merged":
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


def _from_the_base(module: "FinetuneModule", ckpt_path: str) -> Adapter:
    """The adapter as it stands on the base alone: the one that was trained, together with those that the run began with."""
    assert module.adapter is not None
    begun = getattr(module, "init_adapter", None)
    if begun is None:
        return module.adapter
    own = module.adapter.low_rank_factors()
    if own is None:
        raise ValueError(
            f"export: the adapter of {shortest(ckpt_path)}, {module.adapter.kind}, stands on a base into which {begun} was merged, "
            "so that on the base alone it computes something else; --format merged writes the whole model"
        )
    parts = [*low_rank_parts(lambda: module.load_base().model, begun), own]
    say(f"one adapter of the ranks of {shortest(ckpt_path)} and of {shortest(begun)}, on which it stands")
    return attach_sum(module.load_base().model, parts)


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
    batch = probe(tokenizer, module.task)
    with in_fp32(network):
        expected = logits_of(network, batch)
    base = resolve_backbone(module.backbone)
    if format == "adapter":
        adapter.save(folder)
        fresh = module.load_base().model
        load_adapter(fresh, folder)
        compare("reloaded", logits_of(widened(fresh).eval(), batch), expected, tolerance)
        return
    adapter.export_peft(folder, rank_pattern=rank_pattern, base_model=base, task_type=_PEFT_TASKS[module.task])
    if gguf_file(base) is not None:
        say(
            f"the base is a GGUF file, which neither PEFT nor vLLM loads by an adapter's name of it: `fulgurite convert --model "
            f"{base}` makes a folder of it; put that folder's path into adapter_config.json"
        )
    if rank_pattern:
        say(
            "rank_pattern: the modules have ranks of their own; PEFT reads them, vLLM ignores them and computes something else: "
            "for vLLM leave the option out, or give --format merged"
        )
    if (padding := padding_named(network)) is not None:
        say(
            f"this classifier reads the last token that is not padding: after loading {shortest(base)} set "
            f"model.config.pad_token_id = {padding}, that of the tokenizer in this folder, as PEFT's files cannot say it"
        )
    stops = stopping_config(network, tokenizer) if module.task == "causal_lm" else None
    if stops is not None:
        stops.save_pretrained(folder)
    loaded = with_peft(lambda: module.load_base().model, folder)
    if loaded is None:
        say("PEFT is not installed, so the folder was not loaded with it; pip install peft to have that checked too")
        return
    compare("PEFT", logits_of(loaded, batch), expected, tolerance)
    if stops is not None:
        check_stops(loaded, folder, tokenizer)


def _write_merged(
    module: "FinetuneModule", tokenizer: "PreTrainedTokenizerBase", folder: Path, tolerance: float
) -> None:
    network, adapter = _network(module), module.adapter
    batch = probe(tokenizer, module.task)
    expected = merge_checked(network, adapter, batch, tolerance)
    stops = stopping_config(network, tokenizer) if module.task == "causal_lm" else None
    with no_progress_bar():
        network.save_pretrained(folder)
    stored = next(network.parameters()).dtype
    if stored == torch.float32:
        again = load_backbone(
            str(folder), module.task, num_labels=module.num_labels, trust_remote_code=module.trust_remote_code
        ).model.eval()
        compare("reloaded", logits_of(again, batch), expected, tolerance)
    else:
        again = network
        say(f"the weights are stored in {stored}, as the base was; the figures above are those of float32")
    if stops is not None:
        check_stops(again, folder, tokenizer)


def _network(module: "FinetuneModule") -> Any:
    if module.network is None:
        raise ValueError(
            f"export: {type(module).__name__} has no network after configure_model; its class must build one"
        )
    return module.network.eval()


def _summary(adapter: Adapter | None, module: "FinetuneModule") -> Table:
    table = Table(title="export", title_justify="left", title_style="bold", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    if adapter is None:
        table.add_row("parameters", f"{scalars_in(_network(module)):,}")
        return table
    for what, figure in adapter.summary():
        table.add_row(what, figure)
    heads = sum(p.numel() for head in adapter.heads.values() for p in head.parameters())
    table.add_row("head parameters", f"{heads:,}")
    return table
