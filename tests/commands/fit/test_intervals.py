"""Options of the trainer that would train nothing, or end in a division by zero."""

from typing import Any

import pytest

from fulgurite.commands.fit.intervals import check_trainer_options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"val_check_interval": 0}, r"--trainer\.val_check_interval 0 was given; it must be above 0"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch 0"),
        ({"gradient_clip_val": -1.0}, r"gradient_clip_val -1\.0 was given; gradients would not be clipped"),
        ({"max_steps": 0}, "max_steps 0 was given, so that nothing would be trained"),
        ({"max_epochs": 0}, "max_epochs 0"),
        ({"limit_train_batches": 0}, "limit_train_batches 0"),
        ({"limit_train_batches": 0.0}, r"limit_train_batches 0\.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^fit: .*{words}"):
        check_trainer_options(options, "fit")


@pytest.mark.parametrize(
    "options", [{}, {"max_steps": -1, "max_epochs": None}, {"val_check_interval": 0.5}, {"val_check_interval": "00:00:10:00"},
                {"gradient_clip_val": 0}, {"limit_train_batches": True}],
)  # fmt: skip
def test_what_lightning_means_by_them_stays(options: dict[str, Any]) -> None:
    check_trainer_options(options, "fit")
    check_trainer_options({"max_steps": 0, "limit_train_batches": 0}, "test")
