"""A recipe: rows, models, budget and named steps, read from YAML; whatever is wrong with it is said before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from fulgurite.synthesis.account import Budget
from fulgurite.synthesis.authors import ModelOptions
from fulgurite.synthesis.step import STEPS, Step

__all__ = ["OWN_RECIPES", "Recipe", "RowOptions", "Use", "read_recipe"]

OWN_RECIPES = Path(__file__).parent / "recipes"
_PARTS = ("rows", "models", "budget", "seed", "format", "steps")
Options = TypeVar("Options")


@dataclass(frozen=True)
class RowOptions:
    """Where a recipe's rows come from.

    Args:
        path: a file, a folder of data, hub (of a task), or builtin.
        task: a task of `fulgurite evaluate` whose items are the rows; none takes the columns of the file.
        kind: Coding, Math_CoT, Math_PoT or Logic; none takes the usual one.
        dataset: the name of the data set in the rows that come out.
        reads: what the rows of a file are: requests, documents (column text, or a folder of .txt files), or dialogues in any schema
            of conversations.
        columns: the file's column for each of ours that is called otherwise: instruction, topic, domain, answer, tests, solution,
            source, id; of documents text, title, id; of dialogues those of their schema.
        schema: of builtin rows without a task, ultrafeedback by default (ultrachat2 has topics and instructions of three
            domains); of dialogues, which is found by the columns by default.
        split: train, val or test of a folder, or of builtin rows.
        longest: letters of a request, document or dialogue at most.
    """

    path: str | None = None
    task: str | None = None
    kind: Literal["Coding", "Math_CoT", "Math_PoT", "Logic"] | None = None
    dataset: str | None = None
    reads: Literal["requests", "documents", "dialogues"] = "requests"
    columns: dict[str, str] = field(default_factory=dict)
    schema: str | None = None
    split: Literal["train", "val", "test"] | None = None
    longest: int = 100_000

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"synthesize: rows.longest={self.longest}; give 1 letter or more")
        if self.task is not None and self.reads != "requests":
            raise ValueError(
                f"synthesize: rows.task and rows.reads={self.reads}: a task's items are requests; leave out one of them"
            )


@dataclass(frozen=True)
class Use:
    """One step of a recipe: its name, its kind, its options."""

    name: str
    step: Step
    options: Any


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read.

    Attributes:
        name: of the recipe.
        rows: where its rows come from.
        models: by name.
        budget: limits of all runs in one folder.
        seed: of all draws and choices.
        format: of the files that come out.
        steps: in order.
    """

    name: str
    rows: RowOptions
    models: Mapping[str, ModelOptions]
    budget: Budget
    seed: int
    format: str
    steps: Sequence[Use]


def read_recipe(name: str) -> Recipe:
    """A recipe of ours by its name, or a user's file.

    Args:
        name: such as "ultrainteract", or a path.

    Raises:
        FileNotFoundError: neither.
        ValueError: what is wrong with it, in one sentence.
    """
    import yaml

    file = Path(name)
    if not file.is_file():
        file = OWN_RECIPES / f"{name}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in OWN_RECIPES.glob("*.yaml"))
        near = get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]!r}?" if near else "give a file, or one of them"
        raise FileNotFoundError(f"synthesize: no recipe {name!r}; ours are {', '.join(known)}; {guess}")
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"synthesize: the recipe {file} is no YAML ({' '.join(str(error).split())}); correct it"
        ) from error
    if not isinstance(given, dict):
        raise ValueError(f"synthesize: the recipe {file} has no parts; it takes {', '.join(_PARTS)}")
    unknown = [part for part in given if part not in _PARTS]
    if unknown:
        raise ValueError(f"synthesize: the recipe {file} has a part {unknown[0]!r}; allowed are {', '.join(_PARTS)}")
    models = given.get("models") or {}
    if not isinstance(models, dict):
        raise ValueError(f"synthesize: 'models' of {file} is no list of names with options; correct it")
    seed, kind = given.get("seed", 0), given.get("format", "jsonl")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"synthesize: seed={seed!r} in {file}; a whole number is needed")
    if kind not in ("jsonl", "parquet"):
        raise ValueError(f"synthesize: format={kind!r} in {file}; allowed are jsonl and parquet")
    return Recipe(
        file.stem,
        _options(RowOptions, given.get("rows") or {}, f"rows of {file}"),
        {str(name): _options(ModelOptions, part or {}, f"the model {name} of {file}") for name, part in models.items()},
        _options(Budget, given.get("budget") or {}, f"budget of {file}"),
        seed,
        kind,
        _steps(given.get("steps"), file),
    )


def _steps(given: Any, file: Path) -> list[Use]:
    if not isinstance(given, list) or not given:
        raise ValueError(
            f"synthesize: the recipe {file} has no steps; give a list, each with name, do, and its options"
        )
    found: list[Use] = []
    for number, part in enumerate(given, 1):
        if not isinstance(part, dict) or "do" not in part:
            raise ValueError(
                f"synthesize: step {number} of {file} says not what to do; give do: with one of {_kinds()}"
            )
        kind, name = str(part["do"]), str(part.get("name", part["do"]))
        if kind not in STEPS:
            near = get_close_matches(kind, STEPS, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"synthesize: step {number} of {file} does {kind!r}; allowed are {_kinds()}.{guess}")
        if name in [use.name for use in found] or not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(
                f"synthesize: step {number} of {file} is called {name!r}; names are letters, digits, - and _, each once"
            )
        options = {key: value for key, value in part.items() if key not in ("do", "name")}
        step = STEPS[kind]
        found.append(Use(name, step, _options(step.options, options, f"step {name} of {file}")))
    return found


def _kinds() -> str:
    return ", ".join(sorted(STEPS))


def _options(kind: type[Options], given: Any, where: str) -> Options:
    """A dataclass of a mapping, its types checked."""
    from jsonargparse import ArgumentError, ArgumentParser

    if not isinstance(given, dict):
        raise ValueError(f"synthesize: {where}: {given!r}; options by name are needed")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    try:
        built = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before 4.49
        return kind(**built(parser.parse_object(given)).as_dict())
    except (ArgumentError, TypeError, KeyError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"synthesize: {where}: {told[:400]}; correct it") from error
