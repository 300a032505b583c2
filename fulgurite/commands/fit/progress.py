"""The progress bar of the command line: Lightning's, without the end of an epoch count that has none."""

from lightning.pytorch.callbacks import RichProgressBar

__all__ = ["StepsProgressBar"]


class StepsProgressBar(RichProgressBar):
    """Says `Epoch 0` where `max_steps` alone limits the run; Lightning's own says `Epoch 0/-2`."""

    def _get_train_description(self, current_epoch: int) -> str:
        described = super()._get_train_description(current_epoch)
        return described.replace("/-2", "") if self.trainer.max_epochs == -1 else described
