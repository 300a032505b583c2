"""UltraLink (Wang et al., arXiv 2402.04588): English, Chinese, Spanish, Russian and French, four kinds of dialogue each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fulgurite.data.readers.conversations import language_of
from fulgurite.data.sources.locate import RowSource
from fulgurite.datamodules.conversations import ConversationDataModule
from fulgurite.datamodules.options import inherits_options

__all__ = ["UltraLinkDataModule"]


@inherits_options(ConversationDataModule)
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
        **rows: Any,
    ) -> None:
        super().__init__(**rows)
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
