"""UltraChat 2 (UltraFuser, arXiv 2403.08281): instructions of text, code and maths, balanced, for several specialists.

Every batch holds as many rows of each domain (fulgurite.data.sampling.balanced); each row holds one answer behind the
prompts of all specialists (fulgurite.data.encoding.fused). The steps of the stages are the module's, the rows per batch are
given here, one number per stage.

The authors' 310,000 rows (100,000 of text, 100,000 of code, 110,000 of maths) were not released: `path` names what stands
for each domain. Evol-Instruct and MathInstruct, the paper's further sources, can be added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fulgurite.data.encoding.fused import FusedEncoder
from fulgurite.data.encoding.specialists import specialist_tokenizers
from fulgurite.data.encoding.tokenizers import tokenizer_fingerprint
from fulgurite.data.playground import DOMAINS
from fulgurite.data.readers.conversations import ConversationReader
from fulgurite.data.rows.encoded import Rows, SelectedRows
from fulgurite.data.rows.fused import FusedCollator, split_prompts
from fulgurite.data.rows.report import LengthReport
from fulgurite.data.rows.writing import Encode
from fulgurite.data.sampling.balanced import BalancedSampler
from fulgurite.data.sampling.windows import WindowSampler
from fulgurite.data.sources.formats import is_row_file
from fulgurite.data.sources.locate import RowSource, find_sources
from fulgurite.data.sources.row_files import RowFiles
from fulgurite.datamodules.conversations import ConversationDataModule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
from fulgurite.datamodules.options import inherits_options

__all__ = ["UltraChat2DataModule"]

_HUB = {"evol_instruct": "nickrosh/Evol-Instruct-Code-80k-v1", "math_instruct": "TIGER-Lab/MathInstruct"}
_PER_STAGE = [64, 32]  # the default, which also serves a run of one stage
_ADDED_TO = {"evol_instruct": "code", "math_instruct": "maths"}


_NOT_HERE = ("val_path", "test_path", "template", "task_type", "packing", "weights", "mixing", "revision")


@inherits_options(ConversationDataModule, without=_NOT_HERE)
class UltraChat2DataModule(ConversationDataModule):
    """Conversations of several domains, in every specialist's own chat template.

    Attributes after `setup`: those of `ConversationDataModule`; `tag_names` are the domains.

    Args:
        path: "builtin"; or a folder with a file or folder per domain (text…, code…, maths…); or for each domain a hub id,
            file, folder or "builtin", such as {text: a.jsonl, code: b.jsonl, maths: c.jsonl}.
        evol_instruct: Evol-Instruct's rows, added to code: "hub", or a file or folder; None leaves them out.
        math_instruct: MathInstruct's rows, added to maths: "hub", or a file or folder; None leaves them out.
        batch_size: rows of each domain per process and batch; a list has a number for each stage, the last serves the rest.
        repeat: a domain whose rows are used up begins anew, in another order; False: too few rows are an error at the start.
        specialists: whose tokenizers and templates are used; None takes those of the module that is trained.
        templates: chat template of each specialist, in their order; None takes each specialist's own.
        columns: the files' name of columns that the schema calls otherwise.
        supervise: train on every answer ("assistant") or on the last of each conversation ("last").
        too_long: rows longer than max_length are left out and counted ("drop"), stop the run ("error"), or lose the end
            of the answer ("cut"); prompts that leave no room for the response are left out, or stop the run.
        val_fraction: share of the training rows that validate where not every domain has validation rows; 0 for none.
        tokenizer: tokenizer of the base that specialists without one stand on; None takes the module's backbone.
        eval_batch_size: rows per process and batch in validation and test.
        max_length: tokens of a prompt with its answer at most.
        seed: decides the order of the rows within each domain.
        limit_train: train on that many random conversations only.
    """

    def __init__(
        self,
        path: str | dict[str, str] = "builtin",
        evol_instruct: str | None = None,
        math_instruct: str | None = None,
        batch_size: int | list[int] = _PER_STAGE,
        repeat: bool = True,
        specialists: list[str] | None = None,
        templates: list[str] | None = None,
        supervise: Literal["assistant", "last"] = "assistant",
        eval_batch_size: int = 64,
        **rows: Any,
    ) -> None:
        self.per_stage = [batch_size] if isinstance(batch_size, int) else list(batch_size)
        if not self.per_stage or min(self.per_stage) < 1:
            raise ValueError(
                f"UltraChat2DataModule: batch_size is {batch_size}; rows of each domain, at least 1, are needed for each stage"
            )
        extras = {"evol_instruct": evol_instruct, "math_instruct": math_instruct}
        self.domains = _domains(path)
        for name, place in extras.items():
            if place is not None and _ADDED_TO[name] not in self.domains:
                raise ValueError(
                    f"UltraChat2DataModule: {name} is added to the domain {_ADDED_TO[name]!r}; the domains of path are "
                    f"{', '.join(map(repr, self.domains))}; name it so, or list the rows in path"
                )
        self.extras = {
            _ADDED_TO[name]: _HUB[name] if place == "hub" else place for name, place in extras.items() if place
        }
        super().__init__(
            path=list(self.domains.values()),
            supervise=supervise,
            packing=False,
            batch_size=max(self.per_stage),
            eval_batch_size=eval_batch_size,
            **rows,
        )
        owner, held_out = type(self).__name__, rows["val_fraction"]
        self.files = DomainFiles(self.domains, self.extras, owner, self.builtin_schema, held_out)
        self.repeat, self.specialists, self.templates = repeat, specialists, templates
        self.tag_names = list(self.domains)
        self._tokenizers: tuple[Any, list[PreTrainedTokenizerBase]] | None = None

    @property
    def tokenizers(self) -> list[PreTrainedTokenizerBase]:
        """One per specialist, with its chat template; loaded once, and found to share their vocabulary."""
        module = getattr(self.trainer, "lightning_module", None)
        known: dict[str, Any] = {} if module is None else dict(module.hparams)
        names = self.specialists or known.get("specialists")
        base = self.tokenizer or known.get("backbone")
        if not names and base and self.templates:
            names = [base] * len(self.templates)
        if not names:
            raise ValueError(
                "UltraChat2DataModule: no specialists were given and no module with specialists is attached; set specialists "
                "to their hub ids, folders or playground names"
            )
        key = (tuple(names), base, tuple(self.templates or ()))
        if self._tokenizers is None or self._tokenizers[0] != key:
            self._tokenizers = (key, specialist_tokenizers(list(names), base, self.templates))
            self._splits.clear()
        return self._tokenizers[1]

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The first specialist's tokenizer; the tokenizers of all specialists cut a text in the same way."""
        return self.tokenizers[0]

    def encode_prompts(self, turns: Sequence[Any]) -> list[list[int]]:
        """What each specialist is given before the answer to some turns, token ids.

        Args:
            turns: the history, its last turn the user's.
        """
        return self._encoder().prompts(turns)

    def sample_prompts(self, count: int) -> list[tuple[list[int], str]]:
        """None: a fused network is given as many prompts as it has specialists, see encode_prompts.

        Args:
            count: how many were asked for.
        """
        return []

    def sample_views(self, count: int) -> list[tuple[str, list[list[int]]]]:
        """The first validation prompts, the domains in turn: as the first specialist's text, and as ids for each specialist.

        Args:
            count: how many; fewer where there are fewer.
        """
        encoded = self._rows("val")
        rows: Any = [] if encoded is None else self._arranged(encoded)
        found = []
        for index in range(min(count, len(rows))):
            prompts = [ids.tolist() for ids in split_prompts(rows[index]["input_ids"], len(self.tokenizers))]
            found.append((str(self.load_tokenizer().decode(prompts[0], skip_special_tokens=True)), prompts))
        return found

    @property
    def _answers_apart(self) -> bool:
        return True

    def _reader(self, sources: Sequence[RowSource]) -> ConversationReader:
        return ConversationReader(
            sources, self.schema, self.columns, self.on_bad_row, self.tags, tag_sources=True, own_tags=False
        )

    def _identity(self, tokenizer: PreTrainedTokenizerBase, sources: Sequence[RowSource]) -> list[Any]:
        made_of = [[tokenizer_fingerprint(one), one.chat_template] for one in self.tokenizers]
        return [["fused", made_of], *super()._identity(tokenizer, sources)]

    def _encoder(self) -> FusedEncoder:
        supervise: Any = self.supervise
        too_long: Any = self.too_long
        return FusedEncoder(self.tokenizers, self.max_length, supervise, too_long)

    def _encode_with(self, tokenizer: PreTrainedTokenizerBase) -> Encode:
        return self._encoder().encode

    def _sampler(self, encoded: Rows, targets: Tensor) -> WindowSampler:
        trainer = self.trainer
        rows: Any = encoded
        tag = rows.tensors["tag"]
        # Without a module that has stages, the epoch shows each row of the largest domain once.
        steps = getattr(getattr(trainer, "lightning_module", None), "stage_steps", None)
        world = trainer.world_size if trainer else 1
        if steps is None:
            largest = int(torch.bincount(tag.long(), minlength=len(self.domains)).max())
            steps = [-(-largest // (self.per_stage[0] * world * self._accumulate()))]
        elif len(self.per_stage) > len(steps) and self.per_stage != _PER_STAGE:
            raise ValueError(
                f"UltraChat2DataModule: batch_size has {len(self.per_stage)} numbers, {self.per_stage}, for {len(steps)} stages "
                "(stage_steps of the module); give one for each stage, or one for all"
            )
        sizes = [self.per_stage[min(i, len(self.per_stage) - 1)] for i in range(len(steps))]
        return BalancedSampler(
            tag,
            self.tag_names,
            sizes,
            steps,
            targets,
            rank=trainer.global_rank if trainer else 0,
            world_size=world,
            accumulate=self._accumulate(),
            seed=self.seed,
            repeat=self.repeat,
        )

    def _arranged(self, encoded: Any, mixed: bool = False) -> Rows:
        """In evaluation the domains take turns, so that a part of the batches holds all of them."""
        if mixed:
            rows: Rows = encoded
            return rows
        tag = encoded.tensors["tag"].long()
        position = torch.zeros_like(tag)
        for index in range(len(self.tag_names)):
            mine = tag == index
            position[mine] = torch.arange(int(mine.sum()))
        return SelectedRows(encoded, (position * len(self.tag_names) + tag).argsort())

    def _collator(self) -> Any:
        return FusedCollator(len(self.tokenizers), self._pad_token_id(), self.pad_multiple)

    def _padding_collator(self) -> Any:
        return self._collator()

    def _length_report(self, split: str, rows: Any) -> LengthReport:
        report = super()._length_report(split, rows)
        # Of all specialists' views the longest is what max_length limits.
        lengths = rows.tensors["full_length"].long().clamp(max=self.max_length)
        report = replace(report, lengths=lengths, tokens=int(lengths.sum() - rows.targets().sum()))
        if split != "train":
            return report
        sampler = self._sampler(rows, rows.targets())
        return replace(report, batches=len(sampler), steps=len(sampler) // sampler.accumulate)


class DomainFiles(RowFiles):
    """Where each domain's rows are; a row's group is its domain, and validation rows are those of files if every domain has some.

    Args:
        domains: a place for each domain.
        extras: a further place of a domain's training rows.
        owner: what messages call the data module.
        builtin: schema of the playground's rows.
        val_fraction: share of the training rows that validates otherwise.
    """

    def __init__(
        self, domains: dict[str, str], extras: dict[str, str], owner: str, builtin: str, val_fraction: float
    ) -> None:
        super().__init__(list(domains.values()), owner=owner, builtin=builtin, val_fraction=val_fraction)
        self.domains, self.extras = domains, extras

    def validates(self) -> bool:
        """Whether every domain has validation rows of its own."""
        return {source.group for source in self.sources("val")} == set(self.domains)

    def _found(self, split: str) -> list[RowSource]:
        return [source for domain in self.domains for source in self._of_domain(domain, split)]

    def _of_domain(self, domain: str, split: str) -> list[RowSource]:
        places = [self.domains[domain]]
        if split == "train" and domain in self.extras:
            places.append(self.extras[domain])
        found = []
        for place in places:
            place = f"builtin:{domain}" if place == "builtin" else place
            for source in find_sources(place, split, owner=self.owner, builtin=self.builtin):
                found.append(replace(source, group=domain))
        return found


def _domains(path: str | dict[str, str]) -> dict[str, str]:
    """Where each domain's rows are."""
    if isinstance(path, dict):
        if not path:
            raise ValueError("UltraChat2DataModule: path names no domain; give each its hub id, file or folder")
        return dict(path)
    if path == "builtin":
        return dict.fromkeys(DOMAINS, "builtin")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"UltraChat2DataModule: path is {path!r}; allowed are 'builtin', a folder with a file or folder per domain, or a "
            "hub id, file or folder for each, such as path={text: a.jsonl, code: b.jsonl, maths: c.jsonl}; UltraChat 2 itself "
            "was not released"
        )
    found = {}
    for domain in DOMAINS:
        begin = domain.rstrip("s")  # math, mathematics and maths are one
        fits = [
            p
            for p in sorted(folder.iterdir())
            if p.name.lower().startswith(begin)
            and not p.name.endswith(".made.jsonl")  # of `fulgurite synthesize`: where the rows come from
            and (p.is_dir() or is_row_file(p))
        ]
        if len(fits) != 1:
            shown = ", ".join(p.name for p in fits) or "nothing"
            raise ValueError(
                f"UltraChat2DataModule: {path} is to hold one file or folder whose name begins with {begin!r}; found {shown}; "
                "name the places one by one, such as path={text: a.jsonl, code: b.jsonl, maths: c.jsonl}"
            )
        found[domain] = str(fits[0])
    return found
