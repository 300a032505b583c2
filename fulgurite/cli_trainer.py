"""fit, validate, test and predict: LightningCLI with this project's defaults and manners.

What is added to LightningCLI: a parser that names the nearest option; a fixed run folder `runs/<model>-<data>` with
checkpoints, logs and the configuration; the reports of `fulgurite.callbacks` unless the configuration has its own;
checkpoints found or refused before anything runs; a warning for each option that a checkpoint overrules; a summary
with the next commands.
"""

import json
import math
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import fulgurite.callbacks
import fulgurite.datamodules
import fulgurite.lightning_modules  # noqa: F401  imported so that bare class names are known
from fulgurite.callbacks import (
    AdapterCheckpoint,
    GateReport,
    GenerationSamples,
    LearningCurve,
    RandomState,
    RewardReport,
    RewardTrend,
    SamplePrinter,
    SparsityReport,
    Throughput,
)
from fulgurite.cli_checkpoints import MetricCheckpoint
from fulgurite.cli_lock import RunLock
from fulgurite.cli_parser import TrainerParser
from fulgurite.commands.checkpoint_files import find_checkpoint, read_checkpoint
from fulgurite.console import metrics_table, quiet_lightning, say, shortest
from fulgurite.lightning_modules import FinetuneModule, RewardModule

__all__ = ["TrainerCLI", "run_trainer_verb"]

_REPORTS = (
    AdapterCheckpoint,
    RandomState,
    Throughput,
    SparsityReport,
    LearningCurve,
    RewardTrend,
    RewardReport,
    GateReport,
    SamplePrinter,
    GenerationSamples,
)


class RunConfig(SaveConfigCallback):
    """Writes the configuration of a fit to <default_root_dir>/config.yaml, where `test --config` finds it, and holds the folder."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lock = RunLock()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the folder, and writes nothing yet: a fit that fails while it is set up must not replace a run's configuration.

        Args:
            trainer: the trainer
            pl_module: its module
            stage: fit, validate, test or predict
        """
        if stage == "fit" and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._lock.take(Path(trainer.default_root_dir))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go of the folder.

        Args:
            trainer: the trainer
            pl_module: its module
            stage: fit, validate, test or predict
        """
        self._lock.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets go of the folder.

        Args:
            trainer: the trainer
            pl_module: its module
            exception: what ended the run
        """
        self._lock.release()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, whole or not at all.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / ".config.yaml.part"
        config = self.config.clone()
        config["ckpt_path"] = None  # where this fit was resumed from is no option of the next command
        # jsonargparse 4.49 renamed the option; an explicit null must not fall back to a default that is none.
        major, minor = (int(part) for part in version("jsonargparse").split(".")[:2])
        keep_null = "skip_unset" if (major, minor) >= (4, 49) else "skip_none"
        options = {keep_null: False, "overwrite": True, "multifile": False}
        self.parser.save(config, str(unfinished), **options)
        os.replace(unfinished, folder / self.config_filename)


class TrainerCLI(LightningCLI):
    """LightningCLI of this project; `args` are the words after `fulgurite`, the verb first."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            model_class=FinetuneModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"log_every_n_steps": 10, "enable_model_summary": False},
            parser_class=TrainerParser,
            parser_kwargs={"prog": "fulgurite"},
            auto_configure_optimizers=False,
            args=args,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, fixes the run folder, and finds the checkpoint that is asked for.

        Args:
            parser: the parser
            args: the words
        """
        self.config, self._words = parser.parse_args(args), args
        verb = self.config["subcommand"]
        config = self.config[verb]
        if config["trainer"].get("default_root_dir") is None:
            config["trainer"]["default_root_dir"] = str(_run_folder(config))
        seed = config.get("seed_everything")
        if isinstance(seed, int) and not 0 <= seed < 2**32:
            raise ValueError(
                f"{verb}: --seed_everything {seed} was given; allowed are 0 to {2**32 - 1}, true for a random one, and false"
            )
        wanted = config.get("ckpt_path")
        if wanted is not None:
            config["ckpt_path"] = find_checkpoint(str(wanted), self._checkpoint_folder(config), verb)
        elif verb in ("test", "predict"):
            raise ValueError(
                f"{verb}: no --ckpt_path was given, so the weights would be untrained; allowed are last, best or a file; "
                "`fulgurite validate` measures an untrained model"
            )

    @staticmethod
    def _checkpoint_folder(config: Any) -> Path:
        callbacks = config["trainer"].get("callbacks") or []
        for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
            init = callback.get("init_args") or {}
            if str(callback.get("class_path", "")).endswith("Checkpoint") and init.get("dirpath"):
                return Path(init["dirpath"])
        return Path(config["trainer"]["default_root_dir"]) / "checkpoints"

    def _parse_ckpt_path(self) -> None:
        config = self.config[self.config["subcommand"]]
        if not config.get("ckpt_path"):
            return
        read_checkpoint(config["ckpt_path"])
        before = config["model"].clone()
        super()._parse_ckpt_path()
        verb = self.config["subcommand"]
        said = self.parser.parse_args(self._words, defaults=False)[verb].get("model")
        _warn_overruled(before, self.config[verb]["model"], config["ckpt_path"], said)

    def instantiate_trainer(self, **changes: Any) -> Trainer:
        """Builds the trainer with the reports and files of a run, each unless the configuration has its own.

        Args:
            changes: options of the trainer that replace the configuration's
        """
        options = self.config_init[self.subcommand]["trainer"]
        given = options.get("callbacks") or []
        callbacks: list[Callback] = list(given) if isinstance(given, list) else [given]
        for kind in _REPORTS:
            if not any(isinstance(callback, kind) for callback in callbacks):
                callbacks.append(kind())
        root = options["default_root_dir"]
        own_checkpoints = any(isinstance(c, Checkpoint) and not isinstance(c, AdapterCheckpoint) for c in callbacks)
        if not own_checkpoints and options.get("enable_checkpointing") is not False and self.subcommand == "fit":
            callbacks.append(MetricCheckpoint(dirpath=os.path.join(root, "checkpoints")))
        options["callbacks"] = callbacks
        if options.get("logger") in (None, True):
            # One folder per start: a test after a fit must not delete the metrics of the fit.
            options["logger"] = CSVLogger(root, name="logs") if not options.get("fast_dev_run") else False
        try:
            return super().instantiate_trainer(**changes)
        except MisconfigurationException as error:
            if "backend found" not in str(error):
                raise
            raise ValueError(
                f"--trainer.accelerator {options['accelerator']}: torch finds no such device on this machine; allowed here are "
                "cpu and auto"
            ) from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        options = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in ("validate", "test"):
            self._table_wanted = options.pop("verbose", True)
            options["verbose"] = False
        return options

    def after_fit(self) -> None:
        """Says what came out, where it lies, and what to type next."""
        _report_fit(self.trainer)

    def after_validate(self) -> None:
        """Prints the metrics."""
        self._report("validation split")

    def after_test(self) -> None:
        """Prints the metrics."""
        self._report("test split")

    def predict(self, **options: Any) -> None:
        """Predicts, and writes one line of JSON per row to <default_root_dir>/predictions.jsonl.

        Args:
            options: what Trainer.predict takes
        """
        batches = self.trainer.predict(**options) or []
        rank = "" if self.trainer.world_size == 1 else f"-rank{self.trainer.global_rank}"
        file = Path(self.trainer.default_root_dir) / f"predictions{rank}.jsonl"
        count = _write_predictions(batches, getattr(self.datamodule, "label_names", None), file)
        say(f"{count} predictions: {shortest(file)}")

    def _report(self, split: str) -> None:
        if self._table_wanted and self.trainer.is_global_zero:
            weights = self.config[self.subcommand].get("ckpt_path") or "untrained"
            values = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            say(metrics_table(split, values), f"weights: {shortest(weights)}")


def _run_folder(config: Any) -> Path:
    """runs/<model>-<data>[-<task>], from the configured classes."""
    model = re.sub(r"Module$", "", config["model"]["class_path"].rpartition(".")[2])
    data = re.sub(r"DataModule$", "", config["data"]["class_path"].rpartition(".")[2])
    task = (config["data"].get("init_args") or {}).get("task")
    parts = [model, data, *([task] if isinstance(task, str) else [])]
    return Path("runs") / "-".join(re.sub(r"[^A-Za-z0-9]+", "_", part).lower() for part in parts)


def _flatten(config: Any) -> dict[str, Any]:
    """Options of a model's configuration by the name they have on the command line."""
    values = {"--model": config["class_path"].rpartition(".")[2]}
    for key, value in (config.get("init_args") or {}).items():
        is_class = key.endswith("class_path")
        name = "--model." + key.replace("init_args.", "").removesuffix(".class_path")
        values[name] = value.rpartition(".")[2] if is_class else value
    return values


def _warn_overruled(before: Any, after: Any, checkpoint: str, said: Any) -> None:
    """Names each option that a file or the command line says, and whose value the checkpoint replaces."""
    old, new, wanted = _flatten(before), _flatten(after), {} if said is None else _flatten(said)
    clashes = [
        f"{name} {value} (the checkpoint has {new.get(name)})"
        for name, value in old.items()
        if value != new.get(name) and name in wanted and value is not None  # null asks for nothing
    ]
    if clashes and getattr(rank_zero_only, "rank", 0) == 0:
        sys.stderr.write(
            f"fulgurite: warning: {shortest(checkpoint)} was made with other options, and a checkpoint's own win; ignored: "
            f"{', '.join(clashes)}\n"
        )


def _write_predictions(batches: list[Any], names: list[str] | None, file: Path) -> int:
    """Writes rows of dicts of tensors (rows, ...) or lists of texts as lines of JSON; returns their number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.part")
    count = 0
    with open(unfinished, "w", encoding="utf-8") as stream:
        for batch in batches:
            columns = {k: value if isinstance(value, list) else value.tolist() for k, value in batch.items()}
            for values in zip(*columns.values(), strict=True):
                row = dict(zip(columns, values, strict=True))
                index = row.get("prediction")
                if names and isinstance(index, int) and 0 <= index < len(names):
                    row["label"] = names[index]
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    os.replace(unfinished, file)
    return count


@rank_zero_only
def _report_fit(trainer: Trainer) -> None:
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    # A group without a validation row has no loss.
    shown = {n: v for n, v in values.items() if n.startswith(("val_", "train_")) and not (math.isnan(v) and "/" in n)}
    lines: list[object] = []
    if shown and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        lines.append(metrics_table(f"after step {trainer.global_step}", shown))
    keepers = [
        c
        for c in trainer.checkpoint_callbacks
        if isinstance(c, ModelCheckpoint) and (c.best_model_path or c.last_model_path)
    ]
    last = ""
    for keeper in keepers[:1]:
        last = keeper.last_model_path or keeper.best_model_path
        if keeper.monitor and keeper.best_model_score is not None:
            score = float(keeper.best_model_score)
            lines.append(f"best {keeper.monitor} {score:.4f} in {shortest(keeper.best_model_path)}")
    if last:
        root = shortest(trainer.default_root_dir)
        module = trainer.lightning_module
        # PEFT knows no reward head, and full tuning leaves no adapter.
        fits = getattr(getattr(module, "adapter", None), "fits_peft", False)
        peft = fits and not isinstance(module, RewardModule)
        lines += [
            f"checkpoints in {shortest(Path(last).parent)}, configuration in {root}/config.yaml",
            "next:",
            f"  fulgurite test --config {root}/config.yaml --ckpt_path {shortest(last)}",
        ]
        if getattr(trainer.lightning_module, "exports", True):
            lines.append(
                f"  fulgurite export --ckpt_path {shortest(last)} --out {root}/"
                + ("peft" if peft else "merged --format merged")
            )
    if lines:
        say(*lines)


def run_trainer_verb(words: list[str]) -> TrainerCLI:
    """Runs fit, validate, test or predict.

    Args:
        words: what stands after `fulgurite`, the verb first
    """
    quiet_lightning()
    return TrainerCLI(words)
