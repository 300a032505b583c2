"""Study: three playground specialists fused by UltraFuser, against each alone and against ways to make one out of them.

The specialists are adapters on the playground's tiny base, each tuned on one domain behind its own chat template (text: `User:`,
code: `[INST]`, maths: WizardMath's). UltraFuser (arXiv 2403.08281) trains the gate, then gate and adapters, on balanced batches of
built-in rows. All are asked the same held-out questions; an answer is right if the playground's checker says so, greedy decoding.
The loss is that of the reference answer per token. Uniform blend: the same specialists, untrained, each with a third. Merged
weights: the best of the three templates is taken, by the mean. Selection: of the specialists' answers the one with the highest
mean log-probability under its own writer.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["report", "run"]

DOMAINS = ("text", "code", "maths")
NAMES = tuple(f"playground-{domain}" for domain in DOMAINS)
QUESTIONS = 200
STAGE_STEPS, BATCH = (200, 400), (8, 8)
RATES = {"learning_rate": 1e-3, "stage2_learning_rate": 3e-4}
SEEDS = (0, 1, 2)


def run(
    real_data: Path,
    questions: int = QUESTIONS,
    stage_steps: Sequence[int] = STAGE_STEPS,
    seeds: Sequence[int] = SEEDS,
) -> dict[str, Any]:
    """Baselines once, the fused model once per seed; prints a line per row of the table. No real rows are read."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    tasks = _questions(questions)
    rows, runs = _baselines(tasks), []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as scratch:
            runs.append(_fused(tasks, list(stage_steps), seed, Path(scratch), pictures=seed == seeds[0]))
    for after in (1, 2):
        parts = [run[f"stage{after}"] for run in runs]
        rows.append(_row(f"UltraFuser, after stage {after}", *_means(parts), runs=parts))
    return {
        "rows": rows,
        "gate": {d: [_mean([run["gate"][d][e] for run in runs]) for e in range(3)] for d in DOMAINS},
        "tokens": runs[0]["tokens"],
        "settings": {
            "questions": questions,
            "stage_steps": list(stage_steps),
            "batch": list(BATCH),
            "seeds": list(seeds),
            **RATES,
        },
    }


def _questions(count: int) -> dict[str, list[Any]]:
    from fulgurite.data.playground.rows.conversations import made_conversations

    return {d: [made[0] for _, made in made_conversations(f"ultrachat2/{d}", "test", 1, count)] for d in DOMAINS}


def _baselines(tasks: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Each specialist, what is merged of them, the selection among their answers, and the untrained uniform blend."""
    import torch

    from fulgurite.data.playground import check, resolve_backbone
    from fulgurite.evaluation import answer_log_probs, select_answers
    from fulgurite.models import average_weights, load_backbone, task_arithmetic

    rows = []
    tokenizers = _tokenizers()
    base = load_backbone(resolve_backbone("playground"), "causal_lm").model
    wholes = [_whole(name) for name in NAMES]
    answers: dict[str, list[list[str]]] = {d: [] for d in DOMAINS}
    scores: dict[str, list[Any]] = {d: [] for d in DOMAINS}
    for name, model, tokenizer in zip(NAMES, wholes, tokenizers, strict=True):
        measured, written = _measure(model, tokenizer, tasks)
        rows.append(_row(name, *measured))
        for d in DOMAINS:
            answers[d].append(written[d])
            scores[d].append(answer_log_probs(model, tokenizer, [t.prompt for t in tasks[d]], written[d]))
    chosen = {d: select_answers(answers[d], torch.stack(scores[d])) for d in DOMAINS}
    rows.append(
        _row("selection by mean log-probability", {d: _share(check, tasks[d], chosen[d]) for d in DOMAINS}, None)
    )
    states = [model.state_dict() for model in wholes]
    for name, state in (
        ("average of the weights", average_weights(states)),
        ("task arithmetic, λ 1", task_arithmetic(base.state_dict(), states)),
        ("task arithmetic, λ 0.4", task_arithmetic(base.state_dict(), states, 0.4)),
    ):
        merged = load_backbone(resolve_backbone("playground"), "causal_lm").model
        merged.load_state_dict(state)
        found = [_measure(merged, tokenizer, tasks)[0] for tokenizer in tokenizers]
        rows.append(_row(name, *max(found, key=lambda pair: sum(pair[0].values()))))
    module = _module([1], 0)
    module.configure_model()
    with torch.no_grad():
        for p in module.network.gates.parameters():
            p.zero_()
    rows.append(_row("uniform blend", *_measure_fused(module, tasks)[0]))
    return rows


def _fused(
    tasks: dict[str, list[Any]], stage_steps: list[int], seed: int, scratch: Path, pictures: bool
) -> dict[str, Any]:
    """One training, measured behind each stage."""
    import lightning.pytorch as pl

    from fulgurite.callbacks import RandomState
    from fulgurite.datamodules import UltraChat2DataModule

    found: dict[str, Any] = {}

    class BetweenStages(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == stage_steps[0] and "stage1" not in found:
                found["stage1"] = _measure_fused(module, tasks)[0]
                module.network.train()

    module = _module(stage_steps, seed)
    data = UltraChat2DataModule("builtin", batch_size=list(BATCH), max_length=256, cache_dir=str(scratch), seed=seed)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=scratch, num_sanity_val_steps=0, max_epochs=1, gradient_clip_val=1.0, limit_val_batches=0,
        callbacks=[BetweenStages(), RandomState()],
    )  # fmt: skip
    trainer.fit(module, data)
    measured, gate, tokens = _measure_fused(module, tasks)
    found |= {"stage2": measured, "gate": gate, "tokens": tokens if pictures else []}
    print(f"seed {seed}: {_told(*found['stage1'])} behind stage 1, {_told(*measured)} behind stage 2", flush=True)
    return found


def _module(stage_steps: list[int], seed: int) -> Any:
    from lightning.pytorch import seed_everything

    from fulgurite.lightning_modules import UltraFuserModule

    seed_everything(seed, verbose=False)
    return UltraFuserModule(list(NAMES), backbone="playground", stage_steps=stage_steps, **RATES)


def _tokenizers() -> list[Any]:
    from fulgurite.data.encoding.specialists import specialist_tokenizers

    return specialist_tokenizers(NAMES, "playground")


def _whole(name: str) -> Any:
    """A specialist with its adapter merged into the base."""
    from fulgurite.adapters import load_adapter
    from fulgurite.data.playground import resolve_backbone
    from fulgurite.models import load_backbone

    model = load_backbone(resolve_backbone("playground"), "causal_lm").model
    adapter = load_adapter(model, resolve_backbone(name))
    adapter.merge()
    adapter.detach()
    return model.eval()


def _measure(model: Any, tokenizer: Any, tasks: dict[str, list[Any]]) -> tuple[Any, dict[str, list[str]]]:
    """(accuracies, losses) by domain of one model, and what it wrote."""
    from fulgurite.data.playground import check
    from fulgurite.evaluation import answer_log_probs
    from fulgurite.generation import GenerationSettings, generate_text

    right, losses, written = {}, {}, {}
    for d in DOMAINS:
        prompts = [task.prompt for task in tasks[d]]
        settings = GenerationSettings(max_new_tokens=64, batch_size=50)
        written[d] = [texts[0] for texts in generate_text(model, tokenizer, prompts, settings)]
        right[d] = _share(check, tasks[d], written[d])
        given = [task.answer for task in tasks[d]]
        sizes = _sizes(tokenizer, given)
        found = answer_log_probs(model, tokenizer, prompts, given)
        losses[d] = -float((found * sizes).sum() / sizes.sum())
    return (right, losses), written


def _measure_fused(module: Any, tasks: dict[str, list[Any]]) -> tuple[Any, dict[str, list[float]], list[Any]]:
    """The same of a fused module, with the gate's mean weights on reference answers and per token of some of its own."""
    import torch

    from fulgurite.data.encoding.fused import FusedEncoder
    from fulgurite.data.playground import check
    from fulgurite.data.records.conversation import Conversation, Turn
    from fulgurite.data.rows.fused import FusedCollator
    from fulgurite.generation import GenerationSettings, generate_fused

    tokenizers, network = _tokenizers(), module.network.eval()
    network.chat_templates = [tokenizer.chat_template for tokenizer in tokenizers]
    encoder, collator = FusedEncoder(tokenizers, 512), FusedCollator(len(NAMES), tokenizers[0].pad_token_id)
    settings = GenerationSettings(max_new_tokens=64, batch_size=50)
    right, losses, weights, shown = {}, {}, {}, []
    for d in DOMAINS:
        prompts = [task.prompt for task in tasks[d]]
        answers = [samples[0] for samples in generate_fused(network, tokenizers[0], prompts, settings)]
        right[d] = _share(check, tasks[d], [answer.text for answer in answers])
        for prompt, answer in list(zip(prompts, answers, strict=True))[:2]:
            shown.append((prompt, list(zip(answer.pieces, answer.weights.tolist(), strict=True))))
        chats = [Conversation((Turn("user", t.prompt), Turn("assistant", t.answer)), d, 1) for t in tasks[d]]
        rows = [row for found in encoder.encode(chats) for row in found]
        loss, count, gates = 0.0, 0, torch.zeros(len(NAMES))
        for at in range(0, len(rows), 50):
            part = rows[at : at + 50]
            batch = collator.rows(
                [{"input_ids": torch.tensor(r.packed_prompts), "labels": torch.tensor(r.answer)} for r in part]
            )
            with torch.no_grad():
                step = module.objective(network, batch)
            loss, count = loss + float(step.loss_sum), count + int(step.targets)
            gates += step.details["gate_weights"].sum(0)
        losses[d], weights[d] = loss / count, (gates / count).tolist()
    return (right, losses), weights, shown


def _sizes(tokenizer: Any, answers: Sequence[str]) -> Any:
    """Tokens of each answer with its end, as it is trained on."""
    import torch

    from fulgurite.data.encoding.prompts import TextEncoder

    return torch.tensor([len(ids) + 1.0 for ids in TextEncoder(tokenizer).continuations([f" {a}" for a in answers])])


def _share(check: Any, tasks: Sequence[Any], answers: Sequence[str]) -> float:
    return sum(check(task, answer) for task, answer in zip(tasks, answers, strict=True)) / len(tasks)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _means(parts: Sequence[Any]) -> list[dict[str, float]]:
    return [{d: _mean([part[i][d] for part in parts]) for d in DOMAINS} for i in (0, 1)]


def _told(right: dict[str, float], losses: dict[str, float] | None) -> str:
    return ", ".join(f"{d} {100 * right[d]:.1f} %" for d in DOMAINS)


def _row(name: str, right: dict[str, float], losses: dict[str, float] | None, runs: Any = None) -> dict[str, Any]:
    print(f"{name}: {_told(right, losses)}, mean {100 * _mean(list(right.values())):.1f} %", flush=True)
    return {"name": name, "right": right, "loss": losses, "runs": runs}


def report(figures: dict[str, Any], docs: Path) -> None:
    """The table and pictures of docs/ultrafuser_playground.md."""
    from fulgurite.callbacks.gate_picture import draw_gate_text, draw_gate_weights, write_gate_html

    rows, settings = figures["rows"], figures["settings"]
    alone, fused = rows[:3], rows[-1]
    best = max(alone, key=lambda row: _mean(list(row["right"].values())))
    own = {d: row["right"][d] for d, row in zip(DOMAINS, alone, strict=True)}
    count = len(settings["seeds"])
    seeds = f"{count} seeds (means; lowest and highest in brackets)" if count > 1 else "one seed"
    lines = [
        "# Three specialists fused",
        "",
        *(__doc__ or "").split("\n\n", 1)[1].strip().splitlines(),
        "",
        f"{settings['questions']} questions per domain, {settings['stage_steps'][0]} and {settings['stage_steps'][1]} steps of "
        f"{settings['batch'][0]} and {settings['batch'][1]} rows per domain, {seeds}. "
        "The specialists see no further training; UltraFuser's own does.",
        "",
        f"Machine: {figures['machine']['device']}; torch {figures['machine']['torch']}. Command: "
        "`python -m benchmarks.science ultrafuser_playground`.",
        "",
        "| model | text, % right | code | maths | mean | loss: text, code, maths |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in rows]
    gains = ", ".join(f"{d} {100 * (fused['right'][d] - own[d]):+.1f}" for d in DOMAINS)
    lines += [
        "",
        f"Fused minus the best single specialist ({best['name']}), mean of the domains: "
        f"{100 * (_mean(list(fused['right'].values())) - _mean(list(best['right'].values()))):+.1f} points. Fused minus each "
        f"specialist on its own domain, points: {gains}.",
        "",
        "Mean gate weight on the held-out reference answers:",
        "",
        "| rows of | " + " | ".join(NAMES) + " |",
        "|---|---|---|---|",
        *(f"| {d} | " + " | ".join(f"{w:.2f}" for w in figures["gate"][d]) + " |" for d in DOMAINS),
        "",
        "![Mean gate weights by domain](ultrafuser_gate.png)",
        "",
        "Two answers of each domain, every token in the colours of the specialists that wrote it "
        "([with all weights](ultrafuser_tokens.html)):",
        "",
        "![Answers coloured by gate weight](ultrafuser_tokens.png)",
    ]
    (docs / "ultrafuser_playground.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw_gate_weights(figures["gate"], NAMES, docs / "ultrafuser_gate.png")
    draw_gate_text(figures["tokens"], NAMES, docs / "ultrafuser_tokens.png")
    write_gate_html(figures["tokens"], NAMES, docs / "ultrafuser_tokens.html")


def _line(row: dict[str, Any]) -> str:
    right, runs = row["right"], row["runs"]
    cells = []
    for d in DOMAINS:
        spread = [100 * run[0][d] for run in runs] if runs and len(runs) > 1 else []
        cells.append(f"{100 * right[d]:.1f}" + (f" [{min(spread):.1f}, {max(spread):.1f}]" if spread else ""))
    losses = ", ".join(f"{row['loss'][d]:.2f}" for d in DOMAINS) if row["loss"] else "–"
    return f"| {row['name']} | {' | '.join(cells)} | {100 * _mean(list(right.values())):.1f} | {losses} |"
