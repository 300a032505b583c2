"""``preference_step``: one DPO step with LoRA over pairs that share tokens: as a tree, pair by pair, and as TRL takes it.

Shapes: one UltraInteract tree (five turns of a right and a wrong action of 200 tokens after a prompt of 300, an observation of 100
after each wrong one), and one prompt of 200 with four answers of 200 and all six pairs. The reference's log-probabilities are
cached on both sides. TRL's step is ``DPOTrainer.compute_loss`` on its own collator's batch, with PEFT's LoRA and AdamW.

Results are compared on the same structures at a twentieth of the lengths: loss and every factor's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.contenders.low_rank import PLACERS, Placed, why_not
from benchmarks.contenders.models import Base, ModelCase, make_base, on_random_factors, place
from benchmarks.contenders.trl import make_trainer, trl_missing
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, norm_error
from benchmarks.speed.steps import make_optimizer
from fulgurite.data.trees.prefix_tree import build_tree
from fulgurite.data.trees.rows import TreeCollator
from fulgurite.lightning_modules.objectives.completions import CompletionLogProbs
from fulgurite.lightning_modules.objectives.step import Objective
from fulgurite.losses import Completions, PreferenceLoss

__all__ = [
    "BENCHMARK",
    "UNPACKED",
    "as_new",
    "four_answers",
    "gradients",
    "made_up_reference",
    "model_case",
    "on_device",
    "our_batch",
    "our_loss",
    "plain_loss_and_gradients",
    "prepare",
    "shapes",
    "tree_batch",
    "ultra_interact",
]

_BETA = 0.1
_SHORT = 20
UNPACKED, _TRL = "fulgurite, pair by pair", "TRL DPOTrainer"
Path = tuple[torch.Tensor, int]  # ids, and where the answer begins
Pairs = list[tuple[Path, Path]]


def ultra_interact(divisor: int = 1, vocabulary: int = 32000) -> Pairs:
    """The five pairs of one tree, lengths divided by ``divisor``."""
    draw = _drawer(divisor, vocabulary)
    history, pairs = draw(300), []
    for _ in range(5):
        right, wrong = draw(200), draw(200)
        pairs.append(tuple((torch.cat([history, answer]), len(history)) for answer in (right, wrong)))
        history = torch.cat([history, wrong, draw(100)])
    return pairs  # type: ignore[return-value]


def four_answers(divisor: int = 1, vocabulary: int = 32000) -> Pairs:
    """All six pairs of four answers to one prompt."""
    draw = _drawer(divisor, vocabulary)
    prompt = draw(200)
    paths = [(torch.cat([prompt, draw(200)]), len(prompt)) for _ in range(4)]
    return [(paths[i], paths[j]) for i in range(4) for j in range(i + 1, 4)]


def _drawer(divisor: int, vocabulary: int) -> Callable[[int], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda length: torch.randint(5, vocabulary, (length // divisor,), generator=generator)


def tree_batch(pairs: Pairs, shared: bool, packing: bool = True) -> dict[str, torch.Tensor]:
    """The pairs as one tree, or each completion of each pair as a row of its own, all rows packed into one or padded."""
    if shared:
        known: dict[bytes, int] = {}
        paths: list[Path] = []
        for path in (p for pair in pairs for p in pair):
            if known.setdefault(path[0].numpy().tobytes(), len(paths)) == len(paths):
                paths.append(path)
        index = [[known[p[0].numpy().tobytes()] for p in pair] for pair in pairs]
        tree = build_tree([ids.numpy() for ids, _ in paths])
        pieces = [torch.as_tensor(piece) for piece in tree.pieces]
        parents, ends, depths = tree.parents, tree.ends, tree.depths
    else:
        paths = [path for pair in pairs for path in pair]
        index = [[2 * i, 2 * i + 1] for i in range(len(pairs))]
        pieces, parents = [ids for ids, _ in paths], [-1] * len(paths)
        ends, depths = list(range(len(paths))), [0] * len(paths)
    lengths = [len(piece) for piece in pieces]
    starts = torch.tensor([0, *lengths]).cumsum(0)
    sources, targets, owner = [], [], []
    ids = torch.cat(pieces).long()
    for number, ((path, begin), node) in enumerate(zip(paths, ends, strict=True)):
        places, at = [], int(node)
        while at >= 0:
            places.insert(0, torch.arange(int(starts[at]), int(starts[at + 1])))
            at = int(parents[at])
        place_of = torch.cat(places)
        sources.append(place_of[begin - 1 : -1])
        targets.append(path[begin:])
        owner.append(torch.full((len(path) - begin,), number))
    item = {
        "input_ids": ids,
        "position_ids": torch.cat([int(d) + torch.arange(n) for d, n in zip(depths, lengths, strict=True)]),
        "node_lengths": torch.tensor(lengths),
        "parents": torch.tensor([int(p) for p in parents]),
        "sources": torch.cat(sources),
        "targets": torch.cat(targets),
        "owner": torch.cat(owner),
        "ends": torch.tensor([int(starts[int(node) + 1]) - 1 for node in ends]),
        "lengths": torch.tensor([len(path) - begin for path, begin in paths]),
        "pairs": torch.tensor(index),
    }
    return TreeCollator(0, packing=packing).rows([item])


def made_up_reference(pairs: Pairs) -> dict[bytes, float]:
    """Log-probabilities of the reference for speed tests: about those of a random model, a little different for each path."""
    found: dict[bytes, float] = {}
    for i, path in enumerate(p for pair in pairs for p in pair):
        found.setdefault(path[0].numpy().tobytes(), -10.4 * (len(path[0]) - path[1]) + 0.1 * (i % 5))
    return found


def our_loss(log_probs: CompletionLogProbs, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """DPO's mean loss over the pairs of a batch that carries its reference."""
    batch = as_new(batch)
    completions = Completions(log_probs(model, batch), batch["lengths"], batch["reference"])
    parts = PreferenceLoss("dpo", beta=_BETA)(completions, pairs=batch["pairs"])
    return parts.loss_sum / parts.units


def our_batch(pairs: Pairs, shared: bool, device: str) -> dict[str, torch.Tensor]:
    """:func:`tree_batch` with a reference, on a device."""
    batch = tree_batch(pairs, shared)
    known = made_up_reference(pairs)
    paths = [p for pair in pairs for p in pair]
    if shared:
        unique = list(dict.fromkeys(p[0].numpy().tobytes() for p in paths))
        values = [known[key] for key in unique]
    else:
        values = [known[p[0].numpy().tobytes()] for p in paths]
    batch["reference"] = torch.tensor(values)
    return on_device(batch, device)


def as_new(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch as it comes to each step of a training: attention has not prepared its masks yet."""
    if "segments" not in batch:
        return batch
    return {**batch, "segments": batch["segments"].to(batch["input_ids"].device, copy=True)}


def on_device(batch: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    """The batch on a device, read on the host before as our modules do."""
    return {name: value.to(device) for name, value in Objective().on_host(batch).items()}


def _trl_trainer(model: Any) -> Any:
    def without_a_reference(config: Any) -> None:
        config.precompute_ref_log_probs = True  # the log-probabilities come with the batch

    row = {"prompt": "a ", "chosen": "b", "rejected": "c"}
    trainer = make_trainer("DPO", model, row, without_a_reference, beta=_BETA)
    trainer.precompute_ref_logps = True
    return trainer


def _trl_batch(pairs: Pairs, device: str) -> dict[str, torch.Tensor]:
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    known = made_up_reference(pairs)
    rows = []
    for chosen, rejected in pairs:
        begin = chosen[1]
        rows.append(
            {
                "prompt_ids": chosen[0][:begin].tolist(),
                "chosen_ids": chosen[0][begin:].tolist(),
                "rejected_ids": rejected[0][begin:].tolist(),
                "ref_chosen_logps": known[chosen[0].numpy().tobytes()],
                "ref_rejected_logps": known[rejected[0].numpy().tobytes()],
            }
        )
    return {name: tensor.to(device) for name, tensor in DataCollatorForPreference(pad_token_id=0)(rows).items()}


def prepare(contender: str, make: Callable[..., Pairs], case: ModelCase, base: Base) -> Step:
    """One contender's step on the pairs that ``make`` gives, checked on the same at a twentieth of the lengths."""
    ours = contender != _TRL
    placed = place(OURS if ours else "PEFT LoRA", case, base, False)
    optimizer = make_optimizer(OURS if ours else "PEFT LoRA", placed)
    long, short = make(), make(_SHORT)
    if ours:
        shared = contender == OURS
        log_probs = CompletionLogProbs()
        batches = {id(p): our_batch(p, shared, case.device) for p in (long, short)}

        def loss_of(pairs: Pairs) -> torch.Tensor:
            return our_loss(log_probs, placed.model, batches[id(pairs)])
    else:
        trainer = _trl_trainer(placed.model)
        trl_batches = {id(p): _trl_batch(p, case.device) for p in (long, short)}

        def loss_of(pairs: Pairs) -> torch.Tensor:
            return trainer.compute_loss(trainer.model, dict(trl_batches[id(pairs)]))

    def run() -> None:
        loss_of(long).backward()
        optimizer.step()
        optimizer.zero_grad()

    def results() -> dict[str, torch.Tensor]:
        return gradients(placed, loss_of(short))

    def expected() -> dict[str, torch.Tensor]:
        return plain_loss_and_gradients(case, placed, short, made_up_reference(short))

    facts = {
        "tokens": int(batches[id(long)]["input_ids"].numel())
        if ours
        else int(trl_batches[id(long)]["input_ids"].numel())
    }
    return Step(
        run,
        partial(on_random_factors, placed, results),
        partial(on_random_factors, placed, expected),
        slack=2e-5 if case.dtype == torch.float32 else 3e-2,
        facts=lambda: facts,
    )


def gradients(placed: Placed, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The loss, and the gradient of every factor by name; none is left behind."""
    for p in placed.parameters():
        p.grad = None
    loss.backward()
    found = {"loss": loss.detach()}
    for index, factors in enumerate(placed.factors):
        for name, p in factors.named().items():
            assert p.grad is not None
            found[f"{index}.{name}"] = p.grad.flatten().cpu()
            p.grad = None
    return found


def plain_loss_and_gradients(
    case: ModelCase, placed: Placed, pairs: Pairs, known: dict[bytes, float] | None
) -> dict[str, torch.Tensor]:
    """Loss and gradients by plain PyTorch layers in float64, one forward per completion.

    Args:
        case: the model.
        placed: whose factors are taken over.
        pairs: what is compared.
        known: the reference's log-probabilities by the bytes of the ids; None: the base's own are computed.
    """
    model = make_base(case).model.double()
    PLACERS["plain torch"](model, case.targets, case.rank, 1.0, False)
    modules: list[Any] = [m for m in model.modules() if hasattr(m, "lora_a")]

    def log_prob(ids: torch.Tensor, begin: int) -> torch.Tensor:
        logits = model(input_ids=ids[None].to(case.device)).logits[0, begin - 1 : -1].log_softmax(-1)
        return logits.gather(-1, ids[begin:, None].to(case.device)).sum()

    if known is None:
        for module in modules:
            module.scaling = 0.0
        with torch.no_grad():
            known = {p[0].numpy().tobytes(): float(log_prob(*p)) for pair in pairs for p in pair}
    for module, theirs in zip(modules, placed.factors, strict=True):
        module.scaling = theirs.scaling
        for name, p in theirs.named().items():
            setattr(module, name, torch.nn.Parameter(p.detach().double().reshape(getattr(module, name).shape).clone()))
    losses = []
    for pair in pairs:
        ratios = [log_prob(*p) - known[p[0].numpy().tobytes()] for p in pair]
        losses.append(-F.logsigmoid(_BETA * (ratios[0] - ratios[1])))
    loss = torch.stack(losses).mean()
    loss.backward()
    found = {"loss": loss.detach()}
    for index, module in enumerate(modules):
        for name in ("lora_a", "lora_b"):
            found[f"{index}.{name}"] = getattr(module, name).grad.flatten().cpu()
    return found


def model_case(settings: Settings) -> ModelCase:
    """A 6-layer, 512-wide Llama on the CPU; on a GPU the shape of Llama 3.2 1B, with its vocabulary."""
    cuda = settings.device.startswith("cuda")
    dtype = torch.bfloat16 if cuda and not settings.toy else torch.float32
    case = ModelCase("llama", 6, 1, 32, 16, dtype, settings.device, hidden=512, vocabulary=32000)
    if settings.toy:
        return replace(case, layers=1, hidden=64, vocabulary=200, rank=4)
    if not cuda:
        return case
    return replace(case, layers=16, hidden=2048, intermediate=8192, kv_heads=8, vocabulary=128256)


def shapes(settings: Settings, case: ModelCase) -> dict[str, Callable[..., Pairs]]:
    """Name -> what makes the pairs of a workload, given what their lengths are divided by."""
    smallest = _SHORT if settings.toy else 1

    def of(make: Callable[..., Pairs]) -> Callable[..., Pairs]:
        return lambda divisor=1: make(max(divisor, smallest), case.vocabulary)

    return {"UltraInteract tree, 5 pairs": of(ultra_interact), "4 answers, 6 pairs": of(four_answers)}


def _workloads(settings: Settings) -> list[Workload]:
    case = model_case(settings)
    found = []
    for name, make in shapes(settings, case).items():
        contenders: dict[str, Any] = {
            UNPACKED: partial(prepare, UNPACKED, make, case),
            _TRL: trl_missing()
            or why_not("PEFT LoRA", case.device, case.dtype, False)
            or partial(prepare, _TRL, make, case),
            "flash-pref": "asks for transformers < 4.52, which nothing else here runs with",
            OURS: partial(prepare, OURS, make, case),
        }
        facts = {
            "layers": case.layers,
            "hidden": case.hidden,
            "vocabulary": case.vocabulary,
            "pairs": len(make(_SHORT)),
        }
        found.append(Workload(name, facts, partial(make_base, case), contenders, floor=UNPACKED))
    return found


BENCHMARK = Benchmark(
    "preference_step",
    "One DPO step over pairs that share tokens: a tree against its pairs one by one and against TRL.",
    _workloads,
    norm_error,
)
