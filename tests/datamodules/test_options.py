"""Options that data modules share: described once, seen by `--help`; classes that moved are found under their old names."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

import fulgurite.datamodules as package
from fulgurite.datamodules import UltraCritiqueDataModule, UltraLinkDataModule
from fulgurite.datamodules.base import LoaderDataModule
from fulgurite.datamodules.options import OPTIONS, check_choice, documented

CLASSES = [getattr(package, name) for name in package.__all__]


@pytest.mark.parametrize("kind", CLASSES, ids=package.__all__)
def test_every_option_of_every_class_is_described(kind: type) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "data")
    described = {action.dest.removeprefix("data."): action.help or "" for action in parser._actions}
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    assert [name for name in names if len(described[name]) < 15] == []
    assert "  " not in (kind.__doc__ or "").replace("\n    ", "\n").replace("\n    ", "\n")


def test_the_loader_options_have_one_wording() -> None:
    for name in ("num_workers", "cache_dir", "pad_multiple"):
        found = set()
        for kind in CLASSES:
            if "__init__" in kind.__dict__:
                lines = (kind.__doc__ or "").splitlines()
                found |= {line.strip() for line in lines if line.startswith(f"    {name}: ")}
        assert found == {f"{name}: {OPTIONS[name]}"}


def test_a_class_of_ones_own_describes_what_it_adds() -> None:
    class Mine(LoaderDataModule):
        """Mine.

        Args:
            extra: more
                than one line.
            seed: my own words.
        """

        def __init__(self, extra: int = 1, batch_size: int = 8, seed: int = 0, unknown: int = 0) -> None:
            super().__init__(batch_size=batch_size, seed=seed)

    class Bare:
        def __init__(self, seed: int = 0) -> None:
            self.seed = seed

    entries = (Mine.__doc__ or "").split("Args:\n")[1].rstrip().split("\n    ")
    assert [entry.strip() for entry in entries] == [
        "extra: more", "than one line.", f"batch_size: {OPTIONS['batch_size']}", "seed: my own words.",
    ]  # fmt: skip
    assert documented(Bare).__doc__ is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("sft", "SFTDataModule"),
        ("ultrafeedback_critique", "UltraCritiqueDataModule"),
        ("ultrainteract_pairs", "UltraInteractPairDataModule"),
        ("ultrasafety", "UltraSafetyDataModule"),
        ("conversations", "SFTDataModule"),
    ],
)
def test_full_names_of_before_are_found(path: str, name: str) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    given = {"class_path": f"fulgurite.datamodules.{path}.{name}", "init_args": {"path": "builtin"}}
    made: Any = parser.instantiate_classes(parser.parse_object({"data": given})).data
    assert type(made) is getattr(package, name) and made.files.paths == ["builtin"]


def test_a_choice_that_is_not_allowed() -> None:
    check_choice("Mine", "mixing", "a", ("a", "b"))
    with pytest.raises(ValueError, match="Mine: mixing is 'c'; allowed are 'a', 'b'"):
        check_choice("Mine", "mixing", "c", ("a", "b"))


def test_a_misspelt_option_is_refused_in_python_too() -> None:
    with pytest.raises(
        TypeError,
        match=r"UltraLinkDataModule: .*argument 'batchsize'; allowed are .*batch_size",
    ):
        UltraLinkDataModule(batchsize=2)


def test_options_keep_their_types_and_defaults_through_two_bases() -> None:
    found = inspect.signature(UltraLinkDataModule).parameters
    assert (found["batch_size"].default, found["max_length"].default, found["schema"].default) == (4, 2048, "auto")
    assert get_type_hints(UltraLinkDataModule.__init__)["batch_size"] is int
    assert inspect.signature(UltraCritiqueDataModule).parameters["schema"].default == "ultrafeedback_critique"
    assert "options" not in found and "rows" not in found and "loader" not in found
