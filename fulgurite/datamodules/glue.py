"""GLUE (Wang et al., arXiv 1804.07461): nine tasks and the diagnostic set, from the hub, from files or built in."""

from pathlib import Path
from typing import Any, Literal

from fulgurite.data.records.examples import Examples
from fulgurite.data.sampling.splits import held_out_indices, paper_validation_rows
from fulgurite.data.sources.formats import is_row_source
from fulgurite.data.sources.hub import hub_rows
from fulgurite.data.sources.locate import check_hub_id
from fulgurite.data.tasks.glue import examples_from_rows, task_named
from fulgurite.data.tasks.glue_files import read_glue_file, read_glue_split, task_folder
from fulgurite.datamodules.options import inherits_options
from fulgurite.datamodules.texts import TextDataModule

__all__ = ["GLUEDataModule"]

_SPLITS = ("official", "paper", "train")


@inherits_options(TextDataModule)
class GLUEDataModule(TextDataModule):
    """One task of GLUE.

    Args:
        task: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli or ax.
        path: hub id; folder in GLUE's TSV layout (the task's own or the one around it) or with a csv, json, jsonl or
            parquet file per split; a single such file, all of it training rows; or "builtin".
        revision: commit of the hub's data set.
        splits: "official"; "paper", re-split as in SoRA so that the test labels are known; or "train", validation cut
            from the training rows and the official validation rows as test.
        mismatched: for mnli, validate and test on the mismatched genres.
        seed: decides the order of the training rows; the re-splits always use the paper's seed.
    """

    def __init__(
        self,
        task: str = "sst2",
        path: str = "nyu-mll/glue",
        revision: str = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        splits: Literal["official", "paper", "train"] = "official",
        mismatched: bool = False,
        **loader: Any,
    ) -> None:
        super().__init__(**loader)
        self.task = task_named(task)
        if splits not in _SPLITS:
            raise ValueError(f"GLUEDataModule: splits is {splits!r}; allowed are {', '.join(map(repr, _SPLITS))}")
        if mismatched and task != "mnli":
            raise ValueError(f"GLUEDataModule: mismatched was given for {task}; only mnli has such rows; leave it out")
        if task == "ax" and splits != "official":
            raise ValueError("GLUEDataModule: ax has test rows only; only splits='official' is allowed; train on mnli")
        self.path = path
        self.revision = revision
        self.splits = splits
        self.mismatched = mismatched
        self.task_type = self.task.task_type
        self.num_labels = self.task.num_labels
        self.label_names = list(self.task.labels) or None
        self.metric_names = self.task.metrics
        self._official: dict[str, Examples | None] = {}

    def _read(self, split: str) -> Examples | None:
        if self.task.name == "ax" and split != "test":
            if split == "val":
                return None
            raise ValueError("GLUEDataModule: ax has test rows only; fit with task='mnli', then test or predict on ax")
        if self.splits == "official":
            return self._source({"train": "train", "val": "validation", "test": "test"}[split], split != "test")
        if self.splits == "paper" and self.task.paper == "halve":
            if split == "train":
                return self._source("train")
            validation = self._source("validation")
            assert validation is not None
            if len(validation) < 2:
                raise ValueError(
                    f"{validation.source}: one row cannot be halved into validation and test rows, as splits='paper' does for "
                    f"{self.task.name}; add rows, or take splits='official' or 'train'"
                )
            halves = held_out_indices(len(validation), len(validation) // 2)
            return validation.take(halves[0 if split == "val" else 1])
        if split == "test":
            return self._source("validation", needed=not (Path(self.path).is_file() or is_row_source(Path(self.path))))
        train = self._source("train")
        assert train is not None
        if len(train) < 2:
            raise ValueError(
                f"{train.source}: one row cannot be split into training and validation rows; add rows, or take "
                "splits='official' with a validation file"
            )
        held_out, rest = held_out_indices(len(train), paper_validation_rows(len(train)))
        return train.take(held_out if split == "val" else rest)

    def _source(self, name: str, needed: bool = True) -> Examples | None:
        """The rows of an official split, "train", "validation" or "test", from wherever `path` says."""
        if name not in self._official:
            variant = "_mismatched" if self.mismatched else "_matched"
            full = name + variant if self.task.name == "mnli" and name != "train" else name
            self._official[name] = self._fetch(full)
        found = self._official[name]
        if found is None and needed:
            where = Path(self.path)
            files = sorted(p.name for p in task_folder(self.task, where).iterdir())[:20] if where.is_dir() else []
            held = f"; found {', '.join(files) or 'nothing'}" if where.is_dir() else ""
            advice = "add it" + (", or cut it from train with splits='train'" if name == "validation" else "")
            raise ValueError(f"GLUEDataModule: {self.path} has no {name} file for {self.task.name}{held}; {advice}")
        if found is not None and needed and (told := found.unlabelled(name, self.task.tsv_label, "label")):
            raise ValueError(told)
        return found

    def _forget_rows(self) -> None:
        self._official.clear()

    def _fetch(self, name: str) -> Examples | None:
        if self.path == "builtin":
            return self._fetch_builtin(name)
        path = Path(self.path).expanduser()
        if path.is_file() or is_row_source(path):
            return read_glue_file(self.task, path) if name == "train" else None
        if path.is_dir():
            folder = task_folder(self.task, path)
            found = read_glue_split(self.task, folder, name)
            # A user's own copy of MNLI may have one validation file of no particular genres.
            return found if found or "_" not in name else read_glue_split(self.task, folder, name.split("_")[0])
        check_hub_id(self.path, "GLUEDataModule", endings=True)
        return self._fetch_hub(name)

    def _fetch_builtin(self, name: str) -> Examples | None:
        from fulgurite.data.playground import builtin_rows

        source = f"glue/{self.task.name}"
        return examples_from_rows(self.task, builtin_rows(source, name), f"builtin {source} {name}")

    def _fetch_hub(self, name: str) -> Examples | None:
        advice = "a folder of GLUE's files or to 'builtin'"
        rows = hub_rows(
            self.path, name, owner="GLUEDataModule", revision=self.revision, config=self.task.name, advice=advice
        )
        return examples_from_rows(self.task, rows, f"{self.path} {self.task.name} {name}")
