"""Groups of options: to callers, the command line and `--help` they are options like others."""

from __future__ import annotations

import inspect
from typing import Literal

import pytest

from fulgurite.commands.shared.options import AskingOptions, ComputeOptions, DrawingOptions, SourceOptions, with_options
from fulgurite.commands.shared.parser import CommandParser

seen = []


@with_options
def verb(
    tasks: str,
    *,
    source: SourceOptions,
    mode: Literal["a", "b"] = "a",
    compute: ComputeOptions,
    overwrite: bool = False,
) -> None:
    """A verb.

    Args:
        tasks: names.
        source: which model.
        mode: one of two.
        compute: where.
        overwrite: replace what is there.
    """
    seen.append((tasks, source, mode, compute, overwrite))


def test_fields_stand_where_their_group_stands():
    assert list(inspect.signature(verb).parameters) == [
        "tasks", "model", "adapter", "template", "mode", "dtype", "device", "trust_remote_code", "overwrite",
    ]  # fmt: skip
    lines = [line.partition(":")[0].strip() for line in (verb.__doc__ or "").partition("Args:\n")[2].splitlines()]
    assert lines == list(inspect.signature(verb).parameters)
    assert verb.__annotations__["trust_remote_code"] is bool, "what the command line takes for a flag"


def test_the_command_line_and_callers_give_fields(capsys):
    parser = CommandParser(prog="verb")
    parser.add_function_arguments(verb, as_group=False, fail_untyped=True)
    verb(**parser.parse_args(["--tasks", "t", "--model", "m", "--dtype", "bfloat16"]).as_dict())
    verb(tasks="t", adapter="x", trust_remote_code=True)
    assert seen == [
        ("t", SourceOptions("m"), "a", ComputeOptions("bfloat16"), False),
        ("t", SourceOptions(adapter="x"), "a", ComputeOptions(trust_remote_code=True), False),
    ]
    assert "hub id, folder, playground" in parser.format_help()
    with pytest.raises(TypeError, match="unexpected keyword argument 'modle'"):
        verb(tasks="t", modle="m")
    with pytest.raises(SystemExit):
        parser.parse_args(["--tasks", "t", "--dtype", "float8"])
    assert "float8" in capsys.readouterr().err


def test_two_options_of_one_name_are_refused():
    def doubled(seed: int = 0, *, drawing: DrawingOptions) -> None:
        """A verb."""

    with pytest.raises(TypeError, match="doubled has two options of one name: seed"):
        with_options(doubled)


def test_a_group_of_groups_is_described_by_its_parts():
    @with_options
    def asks(n: int = 1, *, asking: AskingOptions) -> None:
        """A verb.

        Args:
            n: how many.
            asking: whom.
        """

    names = list(inspect.signature(asks).parameters)
    lines = (asks.__doc__ or "").partition("Args:\n")[2].splitlines()
    assert [line.partition(":")[0].strip() for line in lines] == names
    assert names[:4] == ["n", "model", "adapter", "template"] and names[-1] == "on_bad_row"
