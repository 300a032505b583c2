"""fit, validate, test and predict: LightningCLI with this project's defaults and manners.

What is added to LightningCLI: a parser that names the nearest option; a fixed run folder `runs/<model>-<data>` with
checkpoints, logs and the configuration; the reports of `fulgurite.callbacks` unless the configuration has its own;
checkpoints found or refused before anything runs; a warning for each option that a checkpoint overrules; a summary
with the next commands.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch.strategies
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
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
    PolicyReport,
    RandomState,
    RewardReport,
    RewardTrend,
    RunLog,
    SamplePrinter,
    SparsityReport,
    Throughput,
)
from fulgurite.commands.fit.checkpoints import MetricCheckpoint
from fulgurite.commands.fit.intervals import check_trainer_options
from fulgurite.commands.fit.nulls import refuse_nulls
from fulgurite.commands.fit.permissions import only_typed_permissions
from fulgurite.commands.fit.progress import StepsProgressBar
from fulgurite.commands.fit.reports import report_fit, write_predictions
from fulgurite.commands.fit.run_config import RunConfig, check_same_run
from fulgurite.commands.fit.waiting import limit_waiting
from fulgurite.commands.fit.writing import WholeCheckpoints, earlier_run, takes_checkpoints
from fulgurite.commands.shared.checkpoint_files import check_weights, find_checkpoint, read_checkpoint
from fulgurite.commands.shared.parser import TrainerParser
from fulgurite.console import metrics_table, quiet_lightning, say, shortest
from fulgurite.lightning_modules import FinetuneModule
from fulgurite.lightning_modules.checks.named_classes import refuse_local_classes
from fulgurite.lightning_modules.processes.strategy import register_strategy

__all__ = ["TrainerCLI", "run_trainer_verb"]

_REPORTS = (
    AdapterCheckpoint,
    RandomState,
    Throughput,
    SparsityReport,
    LearningCurve,
    RewardTrend,
    RewardReport,
    PolicyReport,
    GateReport,
    SamplePrinter,
    GenerationSamples,
    RunLog,  # last: it hands on what the others wrote
)


class TrainerCLI(LightningCLI):
    """LightningCLI of this project; `args` are the words after `fulgurite`, the verb first."""

    def __init__(self, args: list[str]) -> None:
        self._replaces: list[Path] = []  # checkpoints of an earlier run, known once the options are
        super().__init__(
            model_class=FinetuneModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True, "replaces": self._replaces},
            trainer_defaults={"log_every_n_steps": 10, "enable_model_summary": False},
            parser_class=TrainerParser,
            parser_kwargs={"prog": "fulgurite"},
            auto_configure_optimizers=False,
            args=args,
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.add_argument(
            "--process_timeout",
            type=int,
            default=600,
            help="With several processes: after so many seconds of waiting for another one the run ends with an error.",
        )
        if subcommand == "fit":
            parser.add_argument(
                "--overwrite",
                type=bool,
                default=False,
                help="Replace the earlier run in this folder; its checkpoints stay until the new run has one.",
            )
        return parser

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
        check_trainer_options(config["trainer"], verb)
        only_typed_permissions(config["model"], args)
        for section in (config["model"], config["data"]):
            refuse_nulls(section)
        wanted, folder = config.get("ckpt_path"), self._checkpoint_folder(config)
        if wanted is not None:
            config["ckpt_path"] = find_checkpoint(str(wanted), folder, verb)
        elif verb in ("test", "predict"):
            raise ValueError(
                f"{verb}: no --ckpt_path was given, so the weights would be untrained; allowed are last, best or a file; "
                "`fulgurite validate` measures an untrained model"
            )
        if verb == "fit" and not config["trainer"].get("fast_dev_run") and getattr(rank_zero_only, "rank", 0) == 0:
            self._replaces.extend(earlier_run(folder, config.get("ckpt_path"), bool(config.get("overwrite"))))

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
        verb = self.config["subcommand"]
        content = read_checkpoint(config["ckpt_path"])
        refuse_local_classes(config["ckpt_path"], content.get("hyper_parameters") or {})
        check_weights(config["ckpt_path"], content)
        check_same_run(content, config["ckpt_path"], map(str, config.get("config") or []), verb)
        before = config["model"].clone()
        super()._parse_ckpt_path()
        only_typed_permissions(self.config[verb]["model"], self._words, config["ckpt_path"])
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
        if options.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(StepsProgressBar())
        root = options["default_root_dir"]
        own_checkpoints = any(isinstance(c, Checkpoint) and not isinstance(c, AdapterCheckpoint) for c in callbacks)
        if not own_checkpoints and options.get("enable_checkpointing") is not False and self.subcommand == "fit":
            callbacks.append(MetricCheckpoint(dirpath=os.path.join(root, "checkpoints")))
        options["callbacks"] = callbacks
        if takes_checkpoints(options):
            plugins = options.get("plugins") or []
            options["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpoints()]
        if options.get("logger") in (None, True):
            # One folder per start: a test after a fit must not delete the metrics of the fit.
            options["logger"] = CSVLogger(root, name="logs") if not options.get("fast_dev_run") else False
        try:
            trainer: Trainer = super().instantiate_trainer(**changes)
            limit_waiting(trainer.strategy, self.config[self.subcommand].get("process_timeout"))
            return trainer
        except ValueError as error:
            if "invalid strategy name" not in str(error):
                raise
            raise ValueError(
                f"--trainer.strategy {options['strategy']}: no strategy has this name; give auto, ddp, fsdp2 or a class such "
                "as DDPStrategy with --trainer.strategy.class_path"
            ) from error
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
        report_fit(self.trainer)

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
        count = write_predictions(batches, getattr(self.datamodule, "label_names", None), file)
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


def _strategies_by_class(words: list[str]) -> list[str]:
    """The words with a strategy's class given as such: `--trainer.strategy` takes any text for the name of a strategy."""
    joined = list(words)
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--trainer.strategy":
            value = value if equals else next(iter(words[i + 1 : i + 2]), "")
            if value in lightning.pytorch.strategies.__all__:
                joined[i] = f"{name}.class_path{equals}{value if equals else ''}"
    return joined


def run_trainer_verb(words: list[str]) -> TrainerCLI:
    """Runs fit, validate, test or predict.

    Args:
        words: what stands after `fulgurite`, the verb first
    """
    quiet_lightning()
    register_strategy()
    return TrainerCLI(_strategies_by_class(words))
