"""`limit_*_batches` as a share of the batches means that share, once, in every data module."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.sampling.every import EVERY, Seen, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def trained(name: str, folder: Path, **options: Any) -> list[tuple[int, float]]:
    module = Seen()
    data = EVERY[name](limit_train=40, cache_dir=str(folder / "cache"))
    quiet_trainer(folder, limit_val_batches=0, **options).fit(module, data)
    return module.train_batches


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_share_of_the_training_batches_is_that_share(name: str, tmp_path: Path) -> None:
    whole = trained(name, tmp_path)
    assert len(whole) >= 4
    for share in (0.5, 0.75):
        count = int(share * len(whole))
        assert trained(name, tmp_path, limit_train_batches=share) == whole[:count]
        assert trained(name, tmp_path, limit_train_batches=count) == whole[:count]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_last_step_of_a_limited_epoch_counts_its_own_tokens(accumulate: int, tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": accumulate, "max_epochs": 2}
    share = trained("glue", tmp_path, limit_train_batches=0.5, **options)
    assert share == trained("glue", tmp_path, limit_train_batches=5, **options)
    assert len(share) == 10 and {tokens for tokens, _ in share} == ({4} if accumulate == 1 else {12, 8})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_share_of_the_other_batches_is_that_share(name: str, tmp_path: Path) -> None:
    counts = []
    for share in (1.0, 0.5):
        module, data = Seen(), EVERY[name](limit_train=40, cache_dir=str(tmp_path / "cache"), eval_batch_size=2)
        limits = {f"limit_{loop}_batches": share for loop in ("val", "test", "predict")}
        trainer = quiet_trainer(tmp_path, limit_train_batches=1, **limits)
        trainer.fit(module, data)
        if data.has_test_split():
            trainer.test(module, data, verbose=False)
        trainer.predict(module, data)
        counts.append(dict(module.counts))
    assert counts[1] == {loop: count // 2 for loop, count in counts[0].items()}
    assert counts[0]["val"] >= 2
