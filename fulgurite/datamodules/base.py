"""`TextDataModule`: what every data module of texts shares, from the token cache to the resumable training loader.

`prepare_data` tokenises once per machine, into a cache; `setup` reads it on every rank. Training batches carry
`tokens_in_window` (see fulgurite.data.sampling.windows). In validation and test no row is counted twice under DDP.

A run that was interrupted goes on with the very rows that it had not consumed. The position comes from the trainer's
own progress, which Lightning restores; Lightning makes its first iterator before it sets the epoch, and saves in the
middle of an epoch, at its end before and after counting it, and after validation.
"""

import logging
import weakref
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from fulgurite.data.encoding.texts import encode_documents, encode_examples
from fulgurite.data.encoding.tokenizers import load_tokenizer, tokenizer_fingerprint
from fulgurite.data.records.examples import Examples
from fulgurite.data.rows.collate import CausalLMCollator, RowCollator
from fulgurite.data.rows.encoded import BatchRows, EncodedRows, Rows
from fulgurite.data.rows.report import summary
from fulgurite.data.rows.store import cache_key, default_cache_dir, load_or_build
from fulgurite.data.sampling.loader import ResumableLoader
from fulgurite.data.sampling.windows import WindowSampler

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from transformers import PreTrainedTokenizerBase

__all__ = ["TextDataModule"]

_log = logging.getLogger(__name__)

_ENCODING = 2  # raise it when rows are encoded in another way: older caches are then not read
_SHOW_PROGRESS_ROWS = 5000
_STAGE_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class TextDataModule(LightningDataModule):
    """Base of the data modules; a subclass provides `_read(split)` and the attributes below.

    Attributes after `setup`: `task_type` ("classification", "regression" or "causal_lm"), `num_labels` (1 for
    regression, 0 for language modelling), `label_names`, `metric_names` (the main metric first).

    Args:
        tokenizer: hub id, folder or playground name; None takes the backbone of the module that is trained.
        batch_size: training rows per process and batch.
        eval_batch_size: rows per process and batch elsewhere; None takes four times batch_size.
        max_length: tokens per row at most; longer rows are cut.
        num_workers: processes that collate batches.
        seed: decides the order of the training rows.
        cache_dir: folder of the tokenised rows; None takes $FULGURITE_CACHE or ~/.cache/fulgurite.
        limit_train: train on that many random rows only.
        pad_multiple: padded lengths are rounded up to a multiple of it.
    """

    task_type: str = "classification"
    num_labels: int = 0
    label_names: list[str] | None = None
    metric_names: tuple[str, ...] = ("accuracy",)

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
            if value < 1:
                raise ValueError(f"{type(self).__name__}: {name} is {value}; it must be at least 1; raise it")
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
        self._splits: dict[str, EncodedRows | None] = {}
        self._loader: weakref.ref[ResumableLoader] | None = None
        self._resume: dict[str, Any] = {}

    def _read(self, split: str) -> Examples | None:
        """The rows of "train", "val" or "test"; None where there is no such split."""
        raise NotImplementedError

    def _forget_rows(self) -> None:
        """Drops texts that `_read` may have kept; called when the rows of a stage are tokenised."""

    def load_tokenizer(self) -> "PreTrainedTokenizerBase":
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
            self._loaded_tokenizer = (name, load_tokenizer(name))
            self._splits.clear()  # rows that another module's tokenizer made
        return self._loaded_tokenizer[1]

    def prepare_data(self) -> None:
        """Tokenises the splits of the coming stage into the cache."""
        stage = getattr(getattr(self.trainer, "state", None), "fn", None)
        self._load(_STAGE_SPLITS.get(str(getattr(stage, "value", stage)), ("train", "val")))

    def setup(self, stage: str | None = None) -> None:
        """Reads the stage's splits ("fit", "validate", "test", "predict"); None reads training and validation."""
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

    def _load(self, splits: Iterable[str]) -> None:
        self.load_tokenizer()
        for split in splits:
            self._rows(split)
        self._forget_rows()

    def _rows(self, split: str) -> EncodedRows | None:
        """The tokenised rows of a split."""
        if split not in self._splits:
            examples = self._read(split)
            if examples is not None and not len(examples):
                raise ValueError(f"{examples.source}: no row is left for {split}; at least one is needed; add rows")
            if examples is not None and split == "train" and self.limit_train is not None:
                order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(self.seed))
                examples = examples.take(order[: self.limit_train].tolist())
            self._splits[split] = None if examples is None else self._encode(examples)
        return self._splits[split]

    def _encode(self, examples: Examples) -> EncodedRows:
        tokenizer = self.load_tokenizer()
        how = [_ENCODING, self.task_type, self.max_length, tokenizer_fingerprint(tokenizer)]
        key = cache_key(how, examples.texts, examples.pairs, examples.labels)

        def build() -> EncodedRows:
            progress = self._progress(len(examples))
            if self.task_type == "causal_lm":
                return encode_documents(tokenizer, examples.texts, self.max_length, progress)
            return encode_examples(tokenizer, examples, self.max_length, self.task_type == "regression", progress)

        encoded = load_or_build(self.cache_dir / "tokens", key, build)
        if int(encoded.lengths.max()) > tokenizer.model_max_length:
            _log.warning(
                "max_length is %d, but the tokenizer is made for %d tokens", self.max_length, tokenizer.model_max_length
            )
        return encoded

    def _progress(self, rows: int) -> Callable[[Iterable[int]], Iterable[int]]:
        silent = self.trainer is not None and self.trainer.progress_bar_callback is None
        if rows < _SHOW_PROGRESS_ROWS or silent:
            return lambda chunks: chunks
        from tqdm import tqdm

        return lambda chunks: tqdm(chunks, desc=f"tokenising {rows} rows", unit="k rows", leave=False)

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
        """Keeps the position for the training loader that is made next."""
        self._resume = dict(state_dict)

    @staticmethod
    def _most_batches(trainer: "Trainer", batches: int) -> int | None:
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

    def has_test_split(self) -> bool:
        """Whether there are test rows that can be scored; nothing is tokenised for the answer."""
        examples = self._read("test")
        self._forget_rows()
        return examples is not None and (examples.labels is None or any(label is not None for label in examples.labels))

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

    def _evaluation_loader(self, encoded: EncodedRows, split: str) -> DataLoader[Any]:
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

    def _need(self, split: str, verb: str) -> EncodedRows:
        encoded = self._rows(split)
        if encoded is None:
            raise ValueError(f"{type(self).__name__}: there is no {split} split, which {verb} needs; give one")
        return encoded

    def _arranged(self, encoded: EncodedRows, mixed: bool = False) -> Rows:
        """The rows as they are batched: here as they are; a subclass packs them, and mixes those of the training loader."""
        return encoded

    def _collator(self) -> Any:
        """Makes batches of what `_arranged` returns."""
        return self._padding_collator()

    def _padding_collator(self) -> Any:
        """Makes batches of the rows themselves."""
        kind: type[RowCollator | CausalLMCollator]
        kind = CausalLMCollator if self.task_type == "causal_lm" else RowCollator
        pad = self.load_tokenizer().pad_token_id
        assert isinstance(pad, int)
        return kind(pad, self.pad_multiple)

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

    def describe(self) -> str:
        """Rows, tokens, lengths, cut rows and labels of every split that has been read, one line each."""
        lines = [
            f"{split}: {summary(encoded, self.max_length, self.label_names)}"
            for split, encoded in self._splits.items()
            if encoded is not None
        ]
        return "\n".join(lines) if lines else "no split has been read; call setup() first"
