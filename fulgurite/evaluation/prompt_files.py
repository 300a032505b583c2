"""Prompts as template files in Jinja, rendered in its sandbox, which a folder of the user's own may replace one by one.

All files are parsed, looked through for fields that do not exist, and rendered once with filled and once with empty fields before
anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fulgurite.evaluation.runner.plan import text_hash
from fulgurite.whole_files import write_text

__all__ = ["PromptFiles", "copy_files"]


class PromptFiles:
    """The templates of one verb.

    Args:
        owner: the verb, for messages.
        own: the folder of our templates.
        names: of the template files.
        fields: names that a template may use.
        others: values for the trial of those fields that are no texts, such as a number.
        folder: files of the user's own, which replace ours of the same name; None for ours alone.
        name_fields: refuse a template that names no field, because it would ask the same every time.

    Attributes:
        hashes: of each file's text, by its name.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file of another name, one that is no Jinja, or one that names a field that there isn't.
    """

    def __init__(
        self,
        owner: str,
        own: Path,
        names: Sequence[str],
        fields: Mapping[str, str],
        others: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        name_fields: bool = False,
    ) -> None:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
        )
        self._owner, self._fields, self._others, self._name_fields = owner, fields, dict(others or {}), name_fields
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(
                f"{owner}: no such folder of templates: {folder}; give a folder with files such as {names[0]}"
            )
        unknown = (
            [] if folder is None else sorted(f.name for f in folder.iterdir() if f.is_file() and f.name not in names)
        )
        if unknown:
            raise ValueError(
                f"{owner}: {folder}: {', '.join(unknown)} is no template; the names are: {', '.join(names)}"
            )
        files = {name: mine if (mine := (folder or own) / name).is_file() else own / name for name in names}
        texts = {name: file.read_text(encoding="utf-8-sig") for name, file in files.items()}
        self._compiled = {name: self._checked(files[name], text) for name, text in texts.items()}
        self.hashes = {name: text_hash(text) for name, text in texts.items()}

    def _checked(self, file: Path, text: str) -> Any:
        """The compiled template, tried with every field filled and with every field empty."""
        from jinja2 import TemplateError, TemplateSyntaxError, meta

        try:
            named = meta.find_undeclared_variables(self._environment.parse(text))
            unknown = sorted(named - self._fields.keys())
            if unknown:
                raise ValueError(
                    f"{self._owner}: the template {file} names the unknown field {', '.join(map(repr, unknown))}; the fields are: "
                    f"{', '.join(self._fields)}; correct the template"
                )
            compiled = self._environment.from_string(text)
            for value in ("x", ""):
                compiled.render({**dict.fromkeys(self._fields, value), **self._others})
        except TemplateSyntaxError as error:
            raise ValueError(
                f"{self._owner}: the template {file}, line {error.lineno}: {error.message}; correct it"
            ) from error
        except (TemplateError, TypeError, AttributeError, ArithmeticError, LookupError) as error:
            raise ValueError(f"{self._owner}: the template {file} cannot be rendered ({error}); correct it") from error
        if self._name_fields and not named:
            raise ValueError(
                f"{self._owner}: the template {file} names no field, so that it asks the same every time; the fields are: "
                f"{', '.join(self._fields)}; write them into it"
            )
        return compiled

    def text(self, name: str, fields: Mapping[str, object]) -> str:
        """A rendered template.

        Args:
            name: of the file.
            fields: values; those that are not given are empty texts.
        """
        return str(self._compiled[name].render({**dict.fromkeys(self._fields, ""), **fields}))


def copy_files(own: Path, folder: Path) -> list[Path]:
    """Writes our templates into a folder, to be edited there; a file that is there already is left alone.

    Args:
        own: the folder of our templates.
        folder: made if it is not there.

    Returns:
        The files that were written.
    """
    written = []
    for source in sorted(own.glob("*.jinja")):
        file = folder / source.name
        if not file.exists():
            write_text(file, source.read_text(encoding="utf-8"))
            written.append(file)
    return written
