"""No training step asks a GPU what the host can know.

On the meta device tensors have no values: whoever looks at one fails, as a look on a GPU would wait. So a step that runs there
forward and backward never waits. One look is left, and is counted: the head's check of its targets.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from fulgurite.datamodules import SFTDataModule
from fulgurite.kernels.log_probs import autograd
from fulgurite.lightning_modules import SFTModule
from fulgurite.lightning_modules.objectives.labels import Classification, Regression
from fulgurite.lightning_modules.objectives.language import LanguageModelling
from fulgurite.lightning_modules.objectives.preference import PreferenceObjective
from fulgurite.lightning_modules.objectives.reward import RewardObjective
from fulgurite.lightning_modules.objectives.step import Places, supervised_places
from fulgurite.lightning_modules.reference.cache import ReferenceCache
from fulgurite.lightning_modules.reference.model import Reference
from fulgurite.losses import PreferenceLoss, RewardLoss
from fulgurite.models import RewardModel
from tests.lightning_modules.reference.test_whole_pass import Base

IDS = torch.arange(5, 14)


def llama():
    torch.manual_seed(0)
    sizes = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 16,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, use_cache=False)).train()


def pack():
    labels = torch.where(torch.tensor([0, 1, 1, 1, 0, 0, 1, 0, 0]).bool(), IDS, -100)
    return {
        "input_ids": IDS[None],
        "labels": labels[None],
        "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]]),
        "cu_seq_lens": torch.tensor([0, 4, 7, 9], dtype=torch.int32),
        "tag": torch.tensor([2, 0]),  # the last segment rounds the length up
    }


def rows():
    ids = IDS[:8].view(2, 4)
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 10, -100, -100]])
    return {"input_ids": ids, "labels": labels, "tag": torch.tensor([1, 0])}


def tree():
    """A prompt of four tokens with answers of three and of two."""
    return {
        "input_ids": IDS[None],
        "position_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4, 5]]),
        "cu_seq_lens": torch.tensor([0, 4, 7, 9], dtype=torch.int32),
        "parents": torch.tensor([-1, 0, 0], dtype=torch.int32),
        "sources": torch.tensor([3, 4, 5, 3, 7]),
        "targets": IDS[4:],
        "owner": torch.tensor([0, 0, 0, 1, 1]),
        "ends": torch.tensor([6, 8]),
        "lengths": torch.tensor([3, 2]),
        "pairs": torch.tensor([[0, 1]]),
        "pair_weight": torch.ones(1),
        "pair_margin": torch.zeros(1),
        "key": torch.tensor([40, 30]),
        "desirable": torch.tensor([1, 0]),
        "kl": torch.tensor([True, True]),
        "completion_weight": torch.ones(2),
        "group": torch.tensor([0, 0]),
        "score": torch.tensor([2.0, 1.0]),
    }


def preference(name):
    objective = PreferenceObjective(PreferenceLoss(name), Reference(Base()))
    objective._cached = ReferenceCache(torch.tensor([30, 40, 50]), torch.tensor([-3.0, -4.0, -5.0]), "weights")
    return objective


def reward(name):
    return RewardObjective(name, RewardLoss(), use_margin=name == "bradley_terry")


def without_pairs():
    return {**tree(), "pairs": torch.zeros(0, 2, dtype=torch.int64)}


CASES = {
    "SFT, packed": (LanguageModelling, pack, llama),
    "SFT, rows": (LanguageModelling, rows, llama),
    "DPO": (lambda: preference("dpo"), tree, llama),
    "SimPO": (lambda: preference("simpo"), tree, llama),
    "KTO": (lambda: preference("kto"), tree, llama),
    "InfoNCA": (lambda: preference("infonca"), without_pairs, llama),
    "rewards": (lambda: reward("bradley_terry"), tree, lambda: RewardModel(llama().model)),
    "rewards of groups": (lambda: reward("nca_kway"), tree, lambda: RewardModel(llama().model)),
}


def gradients(network, objective, batch):
    step = objective(network, batch)
    network.zero_grad()
    step.loss_sum.backward()
    return step, [p.grad for p in network.parameters()]


@pytest.fixture
def looks(monkeypatch):
    """How often the head looks at its targets; on the meta device it is told that all are supervised."""
    counted = []
    original = autograd._supervised

    def count(targets, *rest):
        counted.append(targets.device.type)
        return None if targets.is_meta else original(targets, *rest)

    monkeypatch.setattr(autograd, "_supervised", count)
    # Autocast knows no meta device.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    return counted


# transformers itself looks at the mask or the positions of rows that are not packed, once in each forward.
@pytest.mark.parametrize("case", [case for case in CASES if case != "SFT, rows"])
def test_a_step_asks_the_device_nothing_but_the_head_for_its_targets(case, looks):
    make, batch_of, network_of = CASES[case]
    objective, network, batch = make(), network_of(), batch_of()
    gradients(network, objective, objective.on_host(batch))  # proves head and packing, on real numbers
    looks.clear()
    network.to("meta")
    moved = {name: value.to("meta") for name, value in objective.on_host(batch).items()}
    step, grads = gradients(network, objective, moved)
    assert any(grad is not None for grad in grads) and len(looks) == ("rewards" not in case)
    if case != "KTO":
        assert objective.logged(step).keys() == step.metrics.keys()


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_a_batch_that_the_host_did_not_read(case):
    make, batch_of, network_of = CASES[case]
    batch, network = batch_of(), network_of()
    plain, plain_grads = gradients(network, make(), batch)
    objective = make()
    read = objective.on_host(batch)
    assert set(batch) < set(read) and batch.keys() == batch_of().keys()
    step, grads = gradients(network, objective, read)
    assert torch.equal(step.loss_sum, plain.loss_sum) and torch.equal(step.targets, plain.targets)
    for ours, theirs in zip(grads, plain_grads, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
    assert {n: m.value() for n, m in step.metrics.items()} == {n: m.value() for n, m in plain.metrics.items()}


@pytest.mark.parametrize("batch_of", [pack, rows])
def test_language_modelling_is_what_boolean_indices_gave(batch_of):
    """The positions, targets and groups of the mask, bit for bit."""
    batch, network, objective = batch_of(), llama(), LanguageModelling()
    targets = batch["labels"][:, 1:]
    mask = targets != -100
    with torch.no_grad():
        step = objective(network, objective.on_host(batch))
        inputs = objective._decoding.inputs(network, batch)
        logits = network(**inputs).logits[:, :-1][mask]
    wanted = targets[mask]
    assert torch.allclose(step.token_losses, nn.functional.cross_entropy(logits, wanted, reduction="none"), atol=1e-6)
    assert torch.equal(step.correct, logits.argmax(-1) == wanted) and int(step.targets) == int(mask.sum())
    if "cu_seq_lens" in batch:
        per_token = torch.tensor([[2] * 4 + [0] * 3 + [-1] * 2])
    else:
        per_token = batch["tag"][:, None].expand(-1, 4)
    assert torch.equal(step.groups, per_token[:, 1:][mask])


@pytest.mark.parametrize(
    "objective, labels", [(Classification(), [1, -100, 0]), (Regression(), [0.5, float("nan"), 2.0])]
)
def test_rows_without_a_label_are_left_out_without_a_look(objective, labels):
    outputs = torch.randn(3, 2 if isinstance(objective, Classification) else 1)
    network = lambda **inputs: SimpleNamespace(logits=outputs.detach().to(inputs["input_ids"].device).requires_grad_())  # noqa: E731
    batch = {"input_ids": IDS[:3, None], "labels": torch.tensor(labels)}
    read = objective.on_host(batch)
    assert read["supervised"].tolist() == [0, 2]
    ours, plain = objective(network, read), objective(network, batch)
    assert torch.equal(ours.loss_sum, plain.loss_sum) and torch.equal(ours.predictions, plain.predictions)
    assert ours.labels.tolist() == [labels[0], labels[2]] and int(ours.targets) == 2
    objective(network, {name: value.to("meta") for name, value in read.items()}).loss_sum.backward()


@pytest.mark.parametrize("case", ["SFT, packed", "SFT, rows", "KTO", "classes"])
def test_labels_that_changed_after_the_look_count_as_they_are(case):
    if case == "classes":
        objective, batch, key = (
            Classification(),
            {"input_ids": IDS[:3, None], "labels": torch.tensor([1, -100, 0])},
            "labels",
        )
        network = lambda **inputs: SimpleNamespace(logits=torch.tensor([[1.0, 2.0]] * 3))  # noqa: E731
    else:
        make, batch_of, network_of = CASES[case]
        objective, batch, network = make(), batch_of(), network_of()
        key = "desirable" if case == "KTO" else "labels"
    read = objective.on_host(batch)
    before = objective(network, read).loss_sum
    changed = {
        key: torch.where(
            torch.arange(batch[key].shape[-1]) == 0 if case in ("KTO", "classes") else batch[key] > 8, -100, batch[key]
        )
    }
    found = objective(network, {**read, **changed}).loss_sum
    assert torch.equal(found, objective(network, {**batch, **changed}).loss_sum) and not torch.equal(found, before)


def test_stale_places_make_the_loss_nan_where_nobody_looks():
    loss = torch.tensor(2.0, requires_grad=True)
    fresh, stale = (Places(torch.tensor([0]), torch.tensor(value)) for value in (False, True))
    assert fresh.guard(loss).item() == 2.0 and Places(torch.tensor([0]), None).guard(loss) is loss
    assert stale.guard(loss).isnan()
    mask = torch.tensor([True, False]).to("meta")
    assert supervised_places({"supervised": torch.tensor([0]).to("meta")}, mask).stale.device.type == "meta"


def test_states_of_another_length_are_refused():
    objective, batch = LanguageModelling(), rows()
    network = llama()
    objective(network, batch)
    objective._decoding.balanced = lambda *rest: (torch.zeros(2, 5, 16), None, 0.0)
    with pytest.raises(ValueError, match=r"states of \(2, 5\) tokens for labels of \(2, 4\)"):
        objective(network, batch)


def test_a_reference_that_is_not_cached_is_computed_in_the_step():
    objective, batch = preference("dpo"), tree()
    assert objective.on_host(batch)["reference"].tolist() == [-4.0, -3.0]
    assert "reference" not in objective.on_host({**batch, "key": torch.tensor([40, 31])})
    given = {**batch, "reference": torch.tensor([-1.0, -2.0])}
    assert objective.on_host(given)["reference"].tolist() == [-1.0, -2.0]


def test_a_rank_that_only_fills_up_a_batch_logs_nothing():
    objective, network = preference("dpo"), llama()
    batch = {**without_pairs(), "pair_weight": torch.ones(0)}
    step = objective(network, objective.on_host(batch))
    assert objective.logged(step) == {} and not step.metrics


@pytest.mark.parametrize("hook", [None, "on_after_batch_transfer"])
def test_lightning_reads_batches_on_the_host_unless_a_hook_may_change_them(make_trainer, recwarn, hook):
    module = SFTModule("playground", learning_rate=1e-3)
    data = SFTDataModule(path="builtin", max_length=64, batch_size=2, limit_train=8, packing=True)
    seen = []
    trainer = make_trainer(max_steps=1, max_epochs=1, limit_val_batches=0)
    module.on_train_batch_start = lambda batch, index: seen.append(set(batch))
    if hook is not None:
        setattr(data, hook, lambda batch, index: batch)
    trainer.fit(module, data)
    read = {"segments", "supervised"}
    assert seen and (not read & seen[0] if hook else read <= seen[0])
    assert not [warning for warning in recwarn if "overridden" in str(warning.message)]
