"""What is wrong with the answers of several steps in a row: nothing to train on ends the run, a constant reward is said."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["Watch"]

_PATIENCE = 10  # steps in a row


class Watch:
    """Counts steps without anything to learn."""

    def __init__(self) -> None:
        self._nothing = self._constant = 0

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"nothing": self._nothing, "constant": self._constant}

    def load(self, state: Mapping[str, int]) -> None:
        """Go on from what a checkpoint kept; an empty state begins anew."""
        self._nothing, self._constant = state.get("nothing", 0), state.get("constant", 0)

    def __call__(self, trains: bool, figures: Mapping[str, float]) -> None:
        """Look at one step.

        Args:
            trains: whether any of its answers can be trained on.
            figures: of :func:`fulgurite.lightning_modules.rollouts.figures.drawn_figures`.

        Raises:
            RuntimeError: no answer of ten steps in a row could be trained on.
        """
        self._nothing = 0 if trains else self._nothing + 1
        if self._nothing >= _PATIENCE:
            raise RuntimeError(
                f"RLModule: no answer of {_PATIENCE} steps in a row could be trained on ({figures['truncated']:.0%} were cut, "
                f"{figures['dropped']:.0%} had no reward); raise max_new_tokens, or look at the rewards"
            )
        self._constant = self._constant + 1 if figures["reward_std"] == 0 else 0
        if self._constant == _PATIENCE:
            rank_zero_warn(
                f"RLModule: all answers of {_PATIENCE} steps in a row have the reward {figures['reward']:g}, and nothing is learnt "
                "from a constant. Look at the answers (samples.jsonl), and begin with an SFT model that is sometimes right."
            )
