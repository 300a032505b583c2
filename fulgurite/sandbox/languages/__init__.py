"""The languages that programs may be written in; one file each, and one line in :data:`LANGUAGES`."""

from .base import Language, Tool, find_tool
from .cpp import CPP
from .go import GO
from .java import JAVA
from .javascript import JAVASCRIPT
from .python import PYTHON
from .rust import RUST

__all__ = ["LANGUAGES", "Language", "Tool", "available", "find_tool"]

LANGUAGES: dict[str, Language] = {language.name: language for language in (PYTHON, CPP, JAVA, JAVASCRIPT, RUST, GO)}


def available() -> list[str]:
    """The languages whose tools are installed here."""
    return [name for name, language in LANGUAGES.items() if all(find_tool(tool) for tool in language.tools)]
