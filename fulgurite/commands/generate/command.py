"""`fulgurite generate`: answers of a model with its adapter to one prompt, to the rows of a file, or in a chat.

What stands before the model is what training had there: the chat template is the checkpoint's, the adapter's or the
tokenizer's own. A file's answers go to `OUT.part` as they come and to `OUT` at the end; a run that was interrupted goes
on where it stopped, because each row carries a hash of its prompt, the model and the settings.
"""

import sys
from dataclasses import fields
from pathlib import Path

from fulgurite.commands.generate.best_of import BestOf, answer_best, run_best_of
from fulgurite.commands.generate.chat import run_chat
from fulgurite.commands.generate.file import run_file
from fulgurite.commands.shared.checkpoint_files import load_module, tell_other_template
from fulgurite.commands.shared.devices import usable_device
from fulgurite.commands.shared.options import ComputeOptions, DrawingOptions, RewardOptions, SourceOptions, with_options
from fulgurite.commands.shared.rewards import CHECKER, load_scorer
from fulgurite.commands.shared.unused import COLD, cutting_options, refuse_unused
from fulgurite.commands.shared.whole_text import check_text
from fulgurite.commands.shared.written_rows import stamp
from fulgurite.console import shortest
from fulgurite.data.encoding.templates import NO_TEMPLATE, apply_template, lay_stored
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.records.conversation import Turn
from fulgurite.data.sources.formats import ending_of
from fulgurite.evaluation.runner.writers import in_process
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.generation.protocol import SamplingSettings
from fulgurite.generation.texts import LoadedModel, generate_text, load_for_generation
from fulgurite.generation.writers import GenerationSettings
from fulgurite.models import FusedNetwork
from fulgurite.models.quantised import quantisation_of

__all__ = ["generate", "load_model"]


@with_options
def generate(
    prompt: str | None = None,
    file: str | None = None,
    output: str | None = None,
    *,
    source: SourceOptions,
    chat: bool = False,
    system: str | None = None,
    column: str | None = None,
    max_new_tokens: int = 256,
    temperature: float | None = None,
    num_samples: int = 1,
    best_of: int | None = None,
    rewards: RewardOptions,
    drawing: DrawingOptions,
    conditions: str | None = None,
    compute: ComputeOptions,
    overwrite: bool = False,
) -> None:
    """Generates text.

    Args:
        prompt: the text to answer.
        file: prompts to answer: .txt (one a line), or a column of prompts or messages in .jsonl, .json, .csv, .tsv (also .gz),
            .parquet or .arrow, or in a folder of datasets.
        output: the .jsonl file for the rows of --file with their answers.
        source: :class:`~fulgurite.commands.shared.options.SourceOptions`.
        chat: talk to the model in the terminal.
        system: the system's turn before everything.
        column: the column of --file with the prompts.
        max_new_tokens: tokens of an answer at most.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn; none takes 0, and 1 with --best_of.
        num_samples: answers for each prompt.
        best_of: draw so many answers for each prompt and take the one with the highest --reward; all of them are kept.
        rewards: :class:`~fulgurite.commands.shared.options.RewardOptions`.
        compute: :class:`~fulgurite.commands.shared.options.ComputeOptions`.
        overwrite: replace an output that holds other answers.
        drawing: :class:`~fulgurite.commands.shared.options.DrawingOptions`.
        conditions: levels to ask a model of CPOModule for, such as "helpfulness=5,honesty=3"; each prompt begins with them.
    """
    given = [name for name, value in (("prompt", prompt), ("file", file), ("chat", chat or None)) if value is not None]
    if len(given) != 1:
        what = "nothing to answer was given" if not given else f"--{' and --'.join(given)} were given"
        raise ValueError(f"generate: {what}; give one of --prompt TEXT, --file FILE with --output FILE, or --chat true")
    if prompt is not None and not prompt.strip():
        raise ValueError("generate: --prompt is empty; give a text")
    for name, text in (("prompt", prompt), ("system", system)):
        check_text(text or "", f"generate: --{name}")
    if (file is None) != (output is None):
        raise ValueError("generate: --file and --output belong together; give both, or neither")
    if file is None:
        refuse_unused("generate", "without --file", column=(column, None), overwrite=(overwrite, False))
    elif ending_of(Path(file)) == ".txt":
        refuse_unused("generate", "with a .txt file, whose lines are the prompts", column=(column, None))
    if chat and num_samples > 1:
        raise ValueError(f"generate: num_samples {num_samples} with --chat; a chat has one answer; leave it out")
    if (best_of is None) != (rewards.reward is None):
        raise ValueError(
            "generate: --best_of and --reward belong together: how many answers are drawn, and what chooses among them; give both"
        )
    if best_of is not None and (chat or num_samples > 1):
        other = "--chat" if chat else f"num_samples {num_samples}"
        raise ValueError(
            f"generate: --best_of {best_of} with {other}; it draws and chooses the answers itself; leave one out"
        )
    if temperature is None:
        temperature = 0.0 if best_of is None else 1.0
    if temperature == 0:
        refuse_unused("generate", COLD, **cutting_options(drawing))
    if best_of is None:
        unused = {f.name: (getattr(rewards, f.name), f.default) for f in fields(rewards)}
        refuse_unused("generate", "without --best_of", **unused)
    settings = GenerationSettings(
        max_new_tokens,
        temperature,
        drawing.top_p,
        drawing.top_k,
        drawing.repetition_penalty,
        num_samples,
        drawing.batch_size,
        drawing.seed,
    )
    if file is not None and not Path(file).exists():
        raise FileNotFoundError(f"generate: --file {file}: no such file; check the path")
    if chat and source.template == NO_TEMPLATE:
        raise ValueError("generate: --template none with --chat, which lays a chat template; leave one of both out")
    loaded = load_model("generate", source, compute)
    if (system is not None or chat) and not loaded.tokenizer.chat_template:
        if system is not None and not chat:
            raise ValueError(
                "generate: --system needs a chat template, and none is stored; give --template auto or a name"
            )
        apply_template(loaded.tokenizer)
    start = () if system is None else (Turn("system", system),)
    lead = "" if conditions is None else _lead(loaded, conditions, source.model or source.adapter or "")
    identity = {
        "model": [source.model, stamp(source.model)],
        "adapter": [source.adapter, stamp(source.adapter)],
        "dtype": compute.dtype,
    }
    if best_of is not None:
        drawn = SamplingSettings(
            max_new_tokens, temperature, drawing.top_p, drawing.top_k, drawing.repetition_penalty, seed=drawing.seed
        )
        best = _best_of(loaded, best_of, drawn, lead, rewards, compute, drawing.batch_size, prompt is not None)
        if prompt is not None:
            answer_best(best, (*start, Turn("user" if loaded.tokenizer.chat_template else "prompt", prompt)))
        else:
            run_best_of(
                best, Path(str(file)), Path(str(output)), start, column, identity, drawing.batch_size, overwrite
            )
    elif prompt is not None:
        _answer(loaded, start, lead + prompt, settings)
    elif file is not None and output is not None:
        identity |= {
            field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "batch_size"
        }
        run_file(loaded, Path(file), Path(output), start, column, settings, identity, overwrite, lead)
    else:
        run_chat(loaded, start, settings, lead)


def _best_of(
    loaded: LoadedModel,
    n: int,
    settings: SamplingSettings,
    lead: str,
    rewards: RewardOptions,
    compute: ComputeOptions,
    batch_size: int,
    alone: bool,
) -> BestOf:
    """What draws and scores; a task's checker needs the task's rows."""
    task = None
    if str(rewards.reward).startswith(CHECKER):
        if alone:
            raise ValueError(
                f"generate: --reward {rewards.reward} with --prompt; a checker needs rows with right answers; give --file with "
                "rows of the task"
            )
        (task,) = find_tasks([str(rewards.reward).removeprefix(CHECKER)])
    scorer = load_scorer("generate", rewards, compute, batch_size)
    return BestOf(loaded, in_process(loaded, batch_size, False).answers, scorer, n, settings, lead, task)


def _lead(loaded: LoadedModel, conditions: str, name: str) -> str:
    """The tokens that stand in front of each prompt."""
    if loaded.conditions is None:
        raise ValueError(
            f"generate: --conditions {conditions}: {shortest(name)} was trained without conditions; leave them out, or give a "
            "checkpoint of CPOModule or what was exported of one"
        )
    return loaded.conditions.prefix({k: v for k, v in loaded.conditions.parse(conditions).items() if v is not None})


def load_model(verb: str, source: SourceOptions, compute: ComputeOptions) -> LoadedModel:
    """What --model and --adapter name, ready to generate.

    Args:
        verb: who asks, for messages.
        source: the model.
        compute: dtype, device and permission.
    """
    place = usable_device(verb, compute.device)
    model, adapter = source.model, source.adapter
    checkpoints = [path for path in (model, adapter) if path is not None and path.endswith(".ckpt")]
    if checkpoints and model is not None and adapter is not None:
        raise ValueError(
            f"{verb}: {shortest(checkpoints[0])} is a checkpoint, which knows its model and its adapter; give it alone"
        )
    if compute.trust_remote_code and not checkpoints:
        raise ValueError(
            f"{verb}: --trust_remote_code true was given for {model or adapter}; it is allowed for a .ckpt file; other models "
            "are loaded without code of their own, so leave it out"
        )
    if checkpoints:
        return _from_checkpoint(verb, checkpoints[0], source.template, compute.dtype, place, compute.trust_remote_code)
    if model is None and adapter is None:
        raise ValueError(f"{verb}: no model was given; give --model (a hub id, a folder, playground) or --adapter")
    dtype = compute.dtype or ("float32" if place.type == "cpu" else "bfloat16")
    return load_for_generation(model, adapter, source.template, dtype, str(place))


def _from_checkpoint(
    verb: str, path: str, template: str | None, dtype: str | None, device: object, trust_remote_code: bool
) -> LoadedModel:
    import torch

    module = load_module(path, trust_remote_code)
    module.configure_model()
    if module.task not in ("causal_lm", "seq2seq") or module.network is None:
        raise ValueError(
            f"{verb}: {shortest(path)} was trained for {module.task}, which writes no text; give a checkpoint of "
            "SFTModule, or of another module with the task causal_lm or seq2seq"
        )
    fused = module.network if isinstance(module.network, FusedNetwork) else None
    # A fused model's specialists may be adapters, whose base has the tokenizer.
    name = str(fused.config._name_or_path) if fused is not None else module.vocabulary.tokenizer or module.backbone
    tokenizer = load_tokenizer(name)
    lay_stored(tokenizer, module.chat_template)
    if template is not None:
        if module.chat_template == NO_TEMPLATE != template:
            raise ValueError(
                f"{verb}: {shortest(path)} was trained on plain text, without a chat template, and --template {template} was "
                "given; leave --template out, or train with --data.template"
            )
        apply_template(tokenizer, template)
        tell_other_template(path, module.chat_template, tokenizer.chat_template)
    network = module.network.to(device=device)  # type: ignore[call-overload]
    if dtype is not None and quantisation_of(network) is not None:
        raise ValueError(
            f"{verb}: --dtype {dtype} was given, and the base of {shortest(path)} is quantised, whose dtype is fixed; leave it "
            "out, or export the checkpoint"
        )
    network = network if dtype is None else network.to(getattr(torch, dtype))
    if isinstance(network, FusedNetwork):
        network.blend = str(getattr(module, "blend", network.blend))
        templates = getattr(module, "chat_templates", None) if template is None else None
        network.chat_templates, tokenizer.chat_template = templates, (templates or [tokenizer.chat_template])[0]
        network.gates.float()  # a gate is small, and differences of its scores decide
    return LoadedModel(network.eval(), tokenizer, getattr(module, "conditions", None))


def _answer(loaded: LoadedModel, start: tuple[Turn, ...], prompt: str, settings: GenerationSettings) -> None:
    """One prompt: its answer as it comes, or all samples one below the other."""
    role = "user" if loaded.tokenizer.chat_template else "prompt"
    turns = (*start, Turn(role, prompt))
    if settings.num_samples == 1:

        def write(text: str) -> None:
            sys.stdout.write(text)
            sys.stdout.flush()

        generate_text(loaded.model, loaded.tokenizer, [turns], settings, write)
        sys.stdout.write("\n")
        return
    for i, text in enumerate(generate_text(loaded.model, loaded.tokenizer, [turns], settings)[0], 1):
        sys.stdout.write(f"[{i}] {text}\n")
