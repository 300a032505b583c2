"""`LoaderDataModule`: what every data module shares once its rows are tokenised, above all the resumable training loader.

`prepare_data` tokenises the splits of the coming stage once per machine, into a cache; `setup` reads them on every rank. Training
batches carry `tokens_in_window` (see fulgurite.data.sampling.windows). In validation and test no row is counted twice under DDP.

A run that was interrupted goes on with exactly those rows that it had not consumed. Where it stood is read off the trainer's own
progress, which Lightning restores. Lightning makes its first iterator before it sets the epoch; it saves in the middle of an
epoch, at the end of an epoch both before and after counting it, and after validation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.rows.encoded import BatchRows, Rows
from fulgurite.data.rows.report import LengthReport, draw_histogram
from fulgurite.data.rows.store import default_cache_dir
from fulgurite.data.sampling.loader import ResumableLoader
from fulgurite.data.sampling.resuming import resume_closed_epoch
from fulgurite.data.sampling.windows import WindowSampler
from fulgurite.datamodules.options import documented

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from transformers import PreTrainedTokenizerBase

__all__ = ["LoaderDataModule"]

_STAGE_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


@documented
class LoaderDataModule(LightningDataModule):
    """Base of the data modules; a subclass provides `_rows(split)`, `_padding_collator()` and the attributes below.

    Attributes after `setup`: `task_type`, what the rows are for ("classification", "causal_lm", …), and `metric_names`, the main
    metric first.
    """

    hub_path: str | None = None  # the data set that the class is named after, and the commit of it that we know
    hub_revision: str | None = None
    task_type: str = "classification"
    metric_names: tuple[str, ...] = ("accuracy",)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        documented(cls)

    def __init__(
        self,
        tokenizer: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        max_length: int = 128,
        num_workers: int = 0,
        seed: int = 42,
        cache_dir: str | None = None,
        limit_train: int | None = None,
        pad_multiple: int = 1,
    ) -> None:
        super().__init__()
        eval_batch_size = 4 * batch_size if eval_batch_size is None else eval_batch_size
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "max_length": max_length}
        counts |= {"pad_multiple": pad_multiple} | ({} if limit_train is None else {"limit_train": limit_train})
        for name, value in counts.items():
            least = (
                2 if name == "max_length" else 1
            )  # of one token nothing is left beside the tokenizer's own, or to predict
            if value < least:
                raise ValueError(f"{type(self).__name__}: {name} is {value}; it must be at least {least}; raise it")
        if num_workers < 0:
            raise ValueError(f"{type(self).__name__}: num_workers is {num_workers}; allowed are 0 and more")
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.max_length = max_length
        self.num_workers = num_workers
        self.seed = seed
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self.limit_train = limit_train
        self.pad_multiple = pad_multiple
        self._loaded_tokenizer: tuple[str, PreTrainedTokenizerBase] | None = None
        self._splits: dict[str, Any] = {}
        self._coming: tuple[str, ...] = ()
        self._reported: set[str] = set()
        self._loader: weakref.ref[ResumableLoader] | None = None
        self._resume: dict[str, Any] = {}

    def _rows(self, split: str) -> Any:
        """The tokenised rows of "train", "val" or "test"; None where there is no such split."""
        raise NotImplementedError

    def _padding_collator(self) -> Any:
        """Makes batches of the rows themselves."""
        raise NotImplementedError

    def _forget_rows(self) -> None:
        """Drops what was only kept to tokenise the rows of a stage; called when they are tokenised."""

    def _with_template(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The tokenizer as this data module uses it; called when it was loaded."""
        return tokenizer

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded once."""
        name = self.tokenizer
        if name is None:
            module = getattr(self.trainer, "lightning_module", None)
            name = None if module is None else module.hparams.get("backbone")
        if not isinstance(name, str):
            raise ValueError(
                f"{type(self).__name__}: no tokenizer was given and no module with a backbone is attached; set "
                "tokenizer to a hub id, a folder, or 'playground'"
            )
        if self._loaded_tokenizer is None or self._loaded_tokenizer[0] != name:
            self._loaded_tokenizer = (name, self._with_template(load_tokenizer(name)))
            self._splits.clear()  # rows that another module's tokenizer made
        return self._loaded_tokenizer[1]

    def _pad_token_id(self) -> int:
        pad = self.load_tokenizer().pad_token_id
        assert isinstance(pad, int)
        return pad

    def prepare_data(self) -> None:
        """Tokenises the splits of the coming stage into the cache."""
        stage = getattr(getattr(self.trainer, "state", None), "fn", None)
        self._load(_STAGE_SPLITS.get(str(getattr(stage, "value", stage)), ("train", "val")))

    def setup(self, stage: str | None = None) -> None:
        """Reads the stage's splits ("fit", "validate", "test", "predict") and says, once, what they hold.

        Args:
            stage: None reads training and validation rows.
        """
        self._resume = {}
        overfit = getattr(self.trainer, "overfit_batches", 0)
        if overfit:
            raise ValueError(
                f"{type(self).__name__}: Trainer(overfit_batches={overfit}) would replace the sampler, which counts "
                "the tokens of a step; use limit_train, the number of rows to train on, instead"
            )
        self._load(_STAGE_SPLITS["fit" if stage is None else stage])
        if stage == "predict" and self._rows("test") is None:
            self._load(("val",))
        self._report(stage in (None, "fit"))

    def _load(self, splits: tuple[str, ...]) -> None:
        self.load_tokenizer()
        self._coming = splits
        for split in splits:
            self._rows(split)
        self._forget_rows()

    def reports(self) -> list[LengthReport]:
        """Rows, tokens, lengths, packs and steps of every split that has been read; a subclass that knows them gives them."""
        return []

    def describe(self) -> str:
        """What every split that has been read holds."""
        lines = [line for report in self.reports() for line in report.lines()]
        return "\n".join(lines) if lines else "no split has been read; call setup() first"

    def _report(self, fitting: bool) -> None:
        """Says on the first process what the splits hold; before training it also draws their lengths."""
        trainer = self.trainer
        reports = [report for report in self.reports() if report.split not in self._reported]
        self._reported |= {report.split for report in reports}
        if not reports or (trainer is not None and not trainer.is_global_zero):
            return
        rank_zero_info("\n".join(line for report in reports for line in report.lines()))
        if fitting and trainer is not None and not getattr(trainer, "fast_dev_run", False):
            draw_histogram(reports, Path(trainer.default_root_dir) / "length_histogram.png")

    def _shown(self, records: Iterable[Any], what: str, unit: str) -> Iterable[Any]:
        """The records, with a progress bar once they take longer than two seconds.

        Args:
            records: any.
            what: is done with them.
            unit: one of them.
        """
        if self.trainer is not None and self.trainer.progress_bar_callback is None:
            return records
        from tqdm import tqdm

        return tqdm(records, desc=what, unit=unit, leave=False, delay=2.0)

    def train_dataloader(self) -> ResumableLoader:
        """Batches of training rows in a new order each epoch, with `tokens_in_window`."""
        encoded = self._arranged(self._need("train", "fit"), mixed=True)
        targets = encoded.targets()
        if int(targets.sum()) == 0:
            raise ValueError(f"{type(self).__name__}: no training row has a label; there is nothing to train on")
        sampler = self._sampler(encoded, targets)
        if self.trainer is not None:
            sampler.limit = self._most_batches(self.trainer, len(sampler))
        loader = ResumableLoader(
            BatchRows(encoded),
            sampler,
            self._collator(),
            self._position,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._pin(),
        )
        self._loader = weakref.ref(loader)
        if self._resume:
            loader.load_state_dict(self._resume)
            self._resume = {}
        return loader

    def _sampler(self, encoded: Rows, targets: torch.Tensor) -> WindowSampler:
        """Which rows make up which training batch."""
        trainer = self.trainer
        return WindowSampler(
            len(encoded),
            self.batch_size,
            targets,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            accumulate=self._accumulate(),
            seed=self.seed,
        )

    def state_dict(self) -> dict[str, Any]:
        """Where training stands. Lightning saves the loader's own state too, but restores it too late for a module that asks
        for `estimated_stepping_batches` when it configures its optimizers: the first iterator is made there."""
        loader = None if self._loader is None else self._loader()
        return {} if loader is None else loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the position for the training loader that is made next, and reopens an epoch that the run did not finish."""
        self._resume = dict(state_dict)
        trainer = self.trainer
        if trainer is None or trainer.state.fn != "fit":
            return
        # Lightning hands a data module its own state only, and restores its loops from this object afterwards.
        checkpoint: Any = trainer._checkpoint_connector._loaded_checkpoint
        steps = state_dict.get("accumulate", self._accumulate())
        position = resume_closed_epoch(checkpoint["loops"]["fit_loop"], steps, trainer.max_steps)
        if position is not None:
            self._resume.update(epoch=position[0], batches=position[1])

    @staticmethod
    def _most_batches(trainer: Trainer, batches: int) -> int | None:
        """Where Lightning will end the epoch, if before the last batch: the last window ends there too."""
        limit = trainer.limit_train_batches
        most = int(limit * batches) if isinstance(limit, float) else limit
        return most if 0 < most < batches else None

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of validation rows; an empty list where there are none."""
        encoded = self._rows("val")
        return [] if encoded is None else self._evaluation_loader(encoded, "validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of test rows, which must have labels."""
        return self._evaluation_loader(self._need("test", "test"), "test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of test rows, labelled or not; of validation rows where there is no test split."""
        encoded = self._rows("test")
        encoded = self._need("val", "predict") if encoded is None else encoded
        # A plain loader: Lightning rebuilds it to keep track of the rows behind each prediction.
        collate: Callable[[list[Any]], Any] = self._padding_collator().rows
        return DataLoader(encoded, batch_size=self.eval_batch_size, collate_fn=collate, num_workers=self.num_workers)

    def train_subset_dataloader(self, count: int = 1000, seed: int = 42) -> DataLoader[Any]:
        """Random training rows in evaluation mode, to measure how well they are memorised.

        Args:
            count: number of rows; all of them where there are fewer.
            seed: decides which.
        """
        encoded = self._need("train", "fit")
        order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(seed))
        return self._evaluation_loader(encoded.take(order[:count].tolist()), "train")

    def sample_batches(self, count: int, seed: int = 42) -> list[Any]:
        """Batches of random training rows, each a whole step's: the same on every rank, and for any number of them.

        Args:
            count: number of batches at most.
            seed: decides which rows.
        """
        rows = self._arranged(self._need("train", "fit"))
        batch_size = self.batch_size * (self.trainer.world_size if self.trainer else 1)
        sampler = WindowSampler(len(rows), batch_size, seed=seed)
        collate, batches = self._collator(), BatchRows(rows)
        return [collate(batches[batch]) for batch in islice(sampler, count)]

    def _evaluation_loader(self, encoded: Any, split: str) -> DataLoader[Any]:
        rows = self._arranged(encoded)
        if int(rows.targets().sum()) == 0:
            raise ValueError(
                f"{type(self).__name__}: all labels of the {split} split are hidden, so that it cannot be scored; use "
                "predict for it, or a split with labels (splits='paper' or 'train' in GLUE)"
            )
        trainer = self.trainer
        sampler = WindowSampler(
            len(rows),
            self.eval_batch_size,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            seed=self.seed,
            shuffle=False,
        )
        collate: Callable[[Any], Any] = self._collator()
        return DataLoader(
            BatchRows(rows),
            batch_size=None,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._pin(),
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _need(self, split: str, verb: str) -> Any:
        encoded = self._rows(split)
        if encoded is None:
            raise ValueError(f"{type(self).__name__}: there is no {split} split, which {verb} needs; give one")
        return encoded

    def _arranged(self, encoded: Any, mixed: bool = False) -> Rows:
        """The rows in the arrangement that is batched: here unchanged; a subclass packs them, and mixes those that are trained on.

        Args:
            encoded: of `_rows`.
            mixed: they are those of the training loader.
        """
        rows: Rows = encoded
        return rows

    def _collator(self) -> Any:
        """Makes batches of what `_arranged` returns."""
        return self._padding_collator()

    def _pin(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _accumulate(self) -> int:
        if self.trainer is None:
            return 1
        for callback in getattr(self.trainer, "callbacks", ()):
            if len(set(getattr(callback, "scheduling", {}).values())) > 1:
                raise ValueError(
                    f"{type(self).__name__}: {type(callback).__name__} changes accumulate_grad_batches during the run; "
                    "a step's tokens are counted for one value; set Trainer(accumulate_grad_batches=...) instead"
                )
        if self.trainer.accumulate_grad_batches < 1:
            raise ValueError(
                f"{type(self).__name__}: accumulate_grad_batches is {self.trainer.accumulate_grad_batches}; it must be at least 1"
            )
        return int(self.trainer.accumulate_grad_batches)

    def _position(self) -> tuple[int, int]:
        """(epoch, batches of it that the trainer has consumed)."""
        if self.trainer is None:
            return 0, 0
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        # Batch counts survive the end of an epoch until the next one begins: `ready` tells the two apart.
        running = epochs.ready > epochs.processed
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return epochs.processed, batches.processed if running else 0
