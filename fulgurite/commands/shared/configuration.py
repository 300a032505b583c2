"""What is wrong with a configuration file, before jsonargparse reads it: that answers with the whole content of the file."""

from collections.abc import Iterator
from pathlib import Path

import yaml

__all__ = ["wrong_configuration"]


def wrong_configuration(file: Path) -> str | None:
    """The sentence that says why a file is no configuration; None where it is one, or cannot be read at all.

    Args:
        file: a YAML file of options.
    """
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError):  # the parser has its own words for these
        return None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        return f"{file}{where}: {getattr(error, 'problem', None) or 'not YAML'}; correct the file"
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value.strip()):
        return f"{file}: the file is empty; write options into it, such as model and data, or leave --config out"
    if not isinstance(node, yaml.MappingNode):
        kind = (
            f"a list of {len(node.value)} items"
            if isinstance(node, yaml.SequenceNode)
            else f"the text {node.value[:40]!r}"
        )
        return (
            f"{file}: it holds {kind}; a configuration is options by name, such as model: and data:; correct the file"
        )
    for key, line, first in _doubled(node):
        return f"{file}, line {line}: {key!r} stands there a second time (first in line {first}); leave one of them"
    return None


def _doubled(node: yaml.Node) -> Iterator[tuple[str, int, int]]:
    """Keys that stand twice in one mapping, with both lines: YAML would take the last without a word."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _doubled(item)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in seen:
                yield key.value, line, seen[key.value]
            seen.setdefault(key.value, line)
        yield from _doubled(value)
