"""`fulgurite convert`: a GGUF file as a plain folder of transformers: weights in full, tokenizer, chat template.

The file's weights are written out in full, so that the folder is larger than the file and no more exact than it. Stock transformers
then loads the folder and computes the logits of a probe batch; if one of them differs, nothing is left on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fulgurite.commands.export.checks import logits_of, no_progress_bar, probe
from fulgurite.commands.export.folder import check_target
from fulgurite.commands.export.stops import check_stops, stopping_config
from fulgurite.console import say, shortest
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.models import load_backbone
from fulgurite.models.gguf import read_config
from fulgurite.models.gguf_files import gguf_file, read_header
from fulgurite.models.sizes import check_vocabulary, vocabulary_of
from fulgurite.whole_files import whole_folder

__all__ = ["convert"]


def convert(
    model: str,
    out: str,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    overwrite: bool = False,
) -> None:
    """Writes a GGUF file as a folder that stock transformers loads, after checking that it computes the same.

    Args:
        model: the GGUF file, or a folder that holds one.
        out: the folder to make.
        dtype: of the weights that are written; float32 loses nothing, bfloat16 takes half the space and rounds.
        overwrite: replace the folder if an earlier one lies there.
    """
    file = gguf_file(model)
    if file is None:
        raise ValueError(f"convert: --model {model} is no GGUF file, and no folder with one; nothing was written")
    target = check_target(out, str(file), overwrite, "convert", "GGUF file")
    header = read_header(file)
    task = "seq2seq" if read_config(str(file)).is_encoder_decoder else "causal_lm"
    network: Any = load_backbone(str(file), task, dtype=dtype).model.eval()
    tokenizer = load_tokenizer(str(file))
    check_vocabulary("convert", vocabulary_of(network), tokenizer, str(file))
    batch = probe(tokenizer, task)
    expected = logits_of(network, batch)
    stops = stopping_config(network, tokenizer) if task == "causal_lm" else None
    if stops is not None:
        stops._from_model_config = False  # else transformers makes it anew from config.json, without the template's end
        network.generation_config = stops
    with whole_folder(target) as folder:
        with no_progress_bar():
            network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del network
        again = _again(folder, task, dtype)
        difference = (logits_of(again, batch) - expected).abs().max().item()
        if not difference <= 1e-6 * expected.abs().max().item():
            raise ValueError(
                f"convert: stock transformers computes other logits from the folder than from {file} (they differ by up to "
                f"{difference:.1e}); nothing was written"
            )
        if stops is not None:
            check_stops(again, folder, tokenizer)
        size = sum(each.stat().st_size for each in folder.glob("*.safetensors"))
    template = "with its chat template" if tokenizer.chat_template else "which has no chat template"
    say(
        f"{shortest(file)}: {header.architecture}, {len(header.tensors)} tensors, stored mostly as {header.stored_as}",
        f"max |folder − file| of the logits = {difference:.1e}",
        f"written: {shortest(target)}, {size / 2**20:,.1f} MiB of weights in {dtype}, and the tokenizer, {template}",
    )


def _again(folder: Path, task: str, dtype: str) -> Any:
    """The folder as stock transformers loads it."""
    import transformers

    kind = transformers.AutoModelForSeq2SeqLM if task == "seq2seq" else transformers.AutoModelForCausalLM
    with no_progress_bar():
        return kind.from_pretrained(folder, dtype=dtype).eval()
