"""UltraLink (Wang et al., arXiv 2402.04588): English, Chinese, Spanish, Russian and French, four kinds of dialogue each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fulgurite.data.readers.conversations import language_of
from fulgurite.data.sources.locate import RowSource
from fulgurite.datamodules.conversations import ConversationDataModule

__all__ = ["UltraLinkDataModule"]


class UltraLinkDataModule(ConversationDataModule):
    """UltraLink; the tag of a row is its language, so that losses come per language and weights mix them.

    The language is read off the name of the file, `{language}_{kind}.jsonl`, or the id of the row. The hub's revision is
    not pinned: no commit of it was published with results.

    Args:
        languages: languages to take (en, zh, es, ru, fr); None takes all of them.
        weights: share of each language in the training rows; None takes the rows as they are.
    """

    hub_path = "R0k1e/UltraLink"
    builtin_schema = "ultralink"

    def __init__(
        self,
        languages: list[str] | None = None,
        path: str | list[str] | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        schema: str = "auto",
        columns: dict[str, str] | None = None,
        template: str | None = None,
        supervise: Literal["assistant", "last", "all"] = "assistant",
        task_type: Literal["causal_lm", "seq2seq"] = "causal_lm",
        packing: bool = True,
        too_long: Literal["drop", "error", "cut"] = "drop",
        on_bad_row: Literal["few", "skip", "error"] = "few",
        val_fraction: float = 0.05,
        weights: dict[str, float] | None = None,
        mixing: Literal["until_first_ends", "repeat"] = "until_first_ends",
        revision: str | None = None,
        tokenizer: str | None = None,
        batch_size: int = 4,
        eval_batch_size: int | None = None,
        max_length: int = 2048,
        num_workers: int = 0,
        seed: int = 42,
        cache_dir: str | None = None,
        limit_train: int | None = None,
        pad_multiple: int = 1,
    ) -> None:
        super().__init__(
            path=path,
            val_path=val_path,
            test_path=test_path,
            schema=schema,
            columns=columns,
            template=template,
            supervise=supervise,
            task_type=task_type,
            packing=packing,
            too_long=too_long,
            on_bad_row=on_bad_row,
            val_fraction=val_fraction,
            weights=weights,
            mixing=mixing,
            revision=revision,
            tokenizer=tokenizer,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            max_length=max_length,
            num_workers=num_workers,
            seed=seed,
            cache_dir=cache_dir,
            limit_train=limit_train,
            pad_multiple=pad_multiple,
        )
        if languages is not None and not languages:
            raise ValueError("UltraLinkDataModule: languages is empty; name one at least, or leave it out for all")
        self.tags: Sequence[str] | None = languages

    def _chosen_sources(self, sources: list[RowSource]) -> list[RowSource]:
        """The split's sources, without files whose name says another language: they need not be read."""
        if self.tags is None:
            return sources
        named = [(source, language_of(Path(source.name).name)) for source in sources]
        chosen = [source for source, language in named if language is None or language in self.tags]
        if sources and not chosen:
            found = ", ".join(sorted({language for _, language in named if language is not None}))
            raise ValueError(
                f"UltraLinkDataModule: no file is of languages {', '.join(self.tags)}; found are {found}; choose among these"
            )
        return chosen
