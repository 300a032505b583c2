"""Figures by name over steps, as callbacks remember them: saved with the run, and cut to its checkpoint where it is resumed."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["Seen"]


class Seen(Callback):
    """Remembers figures; what is noted, and what is made of it, is a subclass's.

    Args:
        folder: where pictures go; None takes the trainer's default_root_dir
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self.seen: dict[str, list[tuple[int, float]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, so that a resumed run's picture begins at step 0."""
        return {"seen": {name: [list(point) for point in points] for name, points in self.seen.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back.

        Args:
            state_dict: what state_dict gave
        """
        found = state_dict.get("seen", {})
        self.seen = {name: [(int(step), float(value)) for step, value in points] for name, points in found.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run forgets what it had seen beyond its checkpoint.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        step = trainer.global_step
        self.seen = {name: [p for p in points if p[0] <= step] for name, points in self.seen.items()}
