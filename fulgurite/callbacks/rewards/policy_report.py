"""How a policy changed under its rewards: `policy.png`, a table, and a few answers before and after.

A mean reward alone hides how it was won. So the report has beside it KL to the reference, how far sampler and trainer were apart,
how often clipping bit, the length of answers and how many were cut, entropy, and where the time went.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.table import Table
from rich.text import Text

from fulgurite.callbacks.picture import panels, save
from fulgurite.callbacks.rewards.seen import Seen
from fulgurite.console import say, shortest

__all__ = ["PolicyReport"]

_SHOWN = {
    "reward": "reward", "reward_std": "s.d. of rewards", "kl": "KL, nats per answer",
    "mismatch_max": "sampler against trainer, largest", "clip_low": "clipped below", "clip_high": "clipped above",
    "ratio_max": "largest ratio", "length": "tokens of an answer", "truncated": "answers cut",
    "dropped": "answers without a reward", "zero_variance": "groups of one reward", "entropy": "entropy, nats",
    "explained_variance": "variance that values explain", "draw_share": "time that drawing takes",
}  # fmt: skip
_KEPT = (*_SHOWN, "draw_seconds", "train_seconds")
_VALIDATED = ("reward", "length", "truncated")


class PolicyReport(Seen):
    """Remembers what RLModule logs; does nothing where a module draws no answers.

    Args:
        folder: where the picture goes; None takes the trainer's default_root_dir
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__(folder)
        self.before: list[dict[str, Any]] = []
        self.after: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Figures, and the answers before training."""
        return {**super().state_dict(), "before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes both back.

        Args:
            state_dict: what state_dict gave
        """
        super().load_state_dict(state_dict)
        self.before = list(state_dict.get("before", []))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the figures of the batch; `outputs`, `batch` and `batch_idx` are not looked at."""
        metrics = trainer.callback_metrics
        if "train_draw_share" in metrics:
            self._note(trainer, "train_", _KEPT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the validation's figures and answers; the first ones are those before training.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        shown = getattr(pl_module, "shown", None)
        whole = not trainer.sanity_checking or trainer.num_sanity_val_steps == float("inf")
        if not isinstance(shown, list) or trainer.state.fn != "fit":
            return
        if whole:
            self._note(trainer, "val_", _VALIDATED)
        self.after = [dict(answer) for answer in shown]
        self.before = self.before or self.after

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the tables and draws the picture, on the first process.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if "train_reward" not in self.seen or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        say(self._table())
        drawing, training = (sum(v for _, v in self.seen[f"train_{part}_seconds"]) for part in ("draw", "train"))
        say(f"time: {drawing:.0f} s drawing and rewarding, {training:.0f} s training")
        if self.after:
            say(_answers(self.before, self.after))
        path = Path(self.folder or trainer.default_root_dir) / "policy.png"
        _draw(self.seen, path)
        say(f"picture: {shortest(path)}")

    def _table(self) -> Table:
        """Means of the first and the last tenth of the steps, for single steps say little."""
        table = Table(title="policy", title_justify="left", title_style="bold")
        table.add_column("")
        for column in ("first tenth", "last tenth", "lowest", "highest"):
            table.add_column(column, justify="right")
        for name, title in _SHOWN.items():
            values = [value for _, value in self.seen.get(f"train_{name}", [])]
            if values:
                tenth = max(1, len(values) // 10)
                figures = (_mean(values[:tenth]), _mean(values[-tenth:]), min(values), max(values))
                table.add_row(title, *(f"{figure:.4g}" for figure in figures))
        validated = [value for _, value in self.seen.get("val_reward", [])]
        if validated:
            ends = (validated[0], validated[-1], min(validated), max(validated))
            table.add_row("reward in validation: first, last", *(f"{figure:.4g}" for figure in ends))
        return table

    def _note(self, trainer: Trainer, prefix: str, names: tuple[str, ...]) -> None:
        for name in names:
            value = trainer.callback_metrics.get(prefix + name)
            if value is not None:
                points = self.seen.setdefault(prefix + name, [])
                points[:] = [p for p in points if p[0] != trainer.global_step] + [(trainer.global_step, float(value))]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _answers(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Table:
    table = Table(title="answers", title_justify="left", title_style="bold", show_lines=True)
    for column in ("prompt", "before", "", "after", ""):
        table.add_column(column, overflow="fold")
    first = {answer["prompt"]: answer for answer in before}
    for answer in after:
        was = first.get(answer["prompt"], {"answer": "", "reward": float("nan")})
        texts = (str(answer["prompt"])[-200:], str(was["answer"])[:200], str(answer["answer"])[:200])
        prompt, old, new = map(Text, texts)  # text, not markup
        table.add_row(prompt, old, f"{was['reward']:g}", new, f"{answer['reward']:g}")
    return table


def _draw(seen: dict[str, list[tuple[int, float]]], path: Path) -> None:
    figure, (reward, kl, clipped, length, entropy, seconds) = panels(6)
    reward.set_title("reward (pale: training)")
    kl.set_title("KL, nats per answer")
    clipped.set_title("share of tokens clipped")
    length.set_title("tokens of an answer")
    entropy.set_title("entropy, nats")
    seconds.set_title("seconds of a step")
    lines = (
        (reward, "train_reward", "tab:blue", 0.4, ""),
        (kl, "train_kl", "tab:red", 1.0, ""),
        (clipped, "train_clip_low", "tab:orange", 1.0, "below"),
        (clipped, "train_clip_high", "tab:purple", 1.0, "above"),
        (length, "train_length", "tab:green", 1.0, ""),
        (entropy, "train_entropy", "tab:brown", 1.0, ""),
        (seconds, "train_draw_seconds", "tab:cyan", 1.0, "drawing and rewarding"),
        (seconds, "train_train_seconds", "tab:gray", 1.0, "training"),
    )
    for axes, name, colour, alpha, label in lines:
        if points := seen.get(name):
            axes.plot(*zip(*points, strict=True), color=colour, alpha=alpha, linewidth=1, label=label or None)
    if points := seen.get("val_reward"):
        reward.plot(*zip(*points, strict=True), color="tab:blue", marker="o", markersize=3)
    for axes in (clipped, seconds):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    save(figure, path)
