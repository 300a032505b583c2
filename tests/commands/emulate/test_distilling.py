"""`fulgurite emulate --distill_steps` on the playground's model: the emulator comes nearer to the full model and says what was
changed, and layers tuned on it still go back into the untouched model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fulgurite.data.playground import resolve_backbone
from fulgurite.models import load_backbone
from fulgurite.models.emulator.folder import load_emulator
from fulgurite.models.emulator.manifest import Manifest
from tests.commands.emulate.test_command import emulate, lines
from tests.commands.plug_in.test_command import plug_in, trained

BASE = resolve_backbone("playground")
SUPPORT = ["--support", "builtin", "--limit", "16", "--max_length", "48"]
SHAPE = ["--method", "uniform", "--keep", "3", "--train", "2"]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers 0, 2 and 3 as a shared emulator, of which layer 2 was trained."""
    out = tmp_path_factory.mktemp("distilled") / "emulator"
    words = [*SUPPORT, *SHAPE, "--sharing", "repeat-non-trainable", "--distill_steps", "20"]
    assert emulate(out, *words, "--distill_learning_rate", "1e-3") == 0
    return out


def test_it_comes_nearer_and_says_what_was_changed(distilled: Path) -> None:
    report = json.loads((distilled / "report.json").read_text())
    done = report["distilled"]
    assert done["distance_after"] < 0.8 * done["distance_before"]
    assert report["perplexity"]["emulator, distilled"] < report["perplexity"]["emulator"]
    assert (done["layers"], done["steps"], done["rows"]) == ([2], 20, 16)
    full: Any = load_backbone(BASE, "causal_lm").model
    layer = list(full.model.layers[2].parameters())
    assert done["bytes"] == sum(4 * p.numel() for p in layer)
    found = load_emulator(distilled)
    model: Any = found.model
    assert found.manifest.distilled is not None and found.manifest.distilled.layers == [2]
    assert report["disclosed_bytes"] == found.manifest.disclosed_bytes < found.manifest.full_bytes
    for place, number in ((0, 0), (1, 2), (2, 2), (3, 3)):
        theirs = dict(full.model.layers[number].named_parameters())
        same = [torch.equal(p, theirs[key]) for key, p in model.model.layers[place].named_parameters()]
        assert all(same) if number != 2 else not any(same)
    assert torch.equal(model.model.embed_tokens.weight, full.model.embed_tokens.weight)


def test_the_figures_are_those_of_the_written_emulator(distilled: Path) -> None:
    from fulgurite.commands.emulate.measuring import batch_of, measure
    from fulgurite.commands.emulate.support import read_support
    from fulgurite.data.encoding.tokenizers import load_tokenizer
    from fulgurite.models.emulator.distillation import Runs

    report, found = json.loads((distilled / "report.json").read_text()), load_emulator(distilled)
    rows = read_support("test", load_tokenizer("playground"), "builtin", limit=16, max_length=48)
    assert measure(found.model, rows, 8).perplexity == pytest.approx(
        report["perplexity"]["emulator, distilled"], rel=1e-5
    )
    runs = Runs(found.model, load_backbone(BASE, "causal_lm").model.eval(), found.manifest)
    with torch.no_grad():
        parts = [float(runs.distance(batch_of(rows[at : at + 8], torch.device("cpu")))) for at in (0, 8)]
    assert sum(parts) / 2 == pytest.approx(report["distilled"]["distance_after"], rel=1e-4)


def test_what_is_said(tmp_path: Path, capsys) -> None:
    texts = lines(tmp_path / "texts.jsonl", [{"text": f"the red film number {i} and more"} for i in range(5)])
    words = [*SUPPORT, *SHAPE, "--distill_steps", "2", "--distill_rows", texts]
    assert emulate(tmp_path / "out", *words) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    for part in ("MiB distilled", "layers changed by distillation", "2 steps", "emulator, distilled"):
        assert part in said
    assert load_emulator(tmp_path / "out").manifest.distilled.rows == 5


def test_untrained_layers_still_give_the_full_model_bit_for_bit(distilled: Path, tmp_path: Path, capsys) -> None:
    _, checkpoint = trained(tmp_path, str(distilled), 0.0)
    assert plug_in(checkpoint, tmp_path / "out") == 0, capsys.readouterr()
    mine, theirs = (load_file(Path(folder) / "model.safetensors") for folder in (tmp_path / "out", BASE))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key].float()) for key in mine)


def test_plug_in_measures_a_distilled_emulator_from_its_folder_alone(distilled: Path, tmp_path: Path, capsys) -> None:
    from fulgurite.commands.emulate.measuring import measure
    from fulgurite.commands.emulate.support import read_support
    from fulgurite.data.encoding.tokenizers import load_tokenizer

    made, checkpoint = trained(tmp_path, str(distilled))
    rows = ["--rows", "builtin", "--limit", "4"]
    assert plug_in(checkpoint, tmp_path / "without", *rows) == 0, capsys.readouterr()
    assert "give its folder with --emulator" in capsys.readouterr().out
    figures = json.loads((tmp_path / "without" / "plug_in.json").read_text())
    assert list(figures) == ["full model", "plug-in"]
    assert plug_in(checkpoint, tmp_path / "with", *rows, "--emulator", str(distilled)) == 0, capsys.readouterr()
    found = json.loads((tmp_path / "with" / "plug_in.json").read_text())
    assert list(found) == ["full model", "emulator", "emulator, tuned", "plug-in"]
    assert {name: found[name] for name in figures} == figures
    read = read_support("test", load_tokenizer("playground"), "builtin", limit=4)
    for name, model in (("emulator, tuned", made.network), ("emulator", load_emulator(distilled).model)):
        assert measure(model, read, 8).perplexity == pytest.approx(found[name]["perplexity"], rel=1e-5)
    assert emulate(tmp_path / "other", *SHAPE) == 0
    capsys.readouterr()
    assert plug_in(checkpoint, tmp_path / "no", *rows, "--emulator", str(tmp_path / "other")) == 1
    assert "is not the emulator that the checkpoint was trained on" in capsys.readouterr().err
    assert plug_in(checkpoint, tmp_path / "no", "--emulator", str(distilled)) == 1
    assert "without --rows" in capsys.readouterr().err


def test_a_manifest_without_distillation_is_the_old_one_and_a_damaged_one_is_refused(distilled: Path) -> None:
    data = json.loads((distilled / "emulator.json").read_text())
    plain = {key: value for key, value in data.items() if key != "distilled"}
    assert Manifest.from_dict(plain, "it").to_dict() == plain
    for changed in ({"layers": [0]}, {"layers": [1]}, {"more": 1}):
        with pytest.raises(ValueError, match="manifest"):
            Manifest.from_dict({**data, "distilled": {**data["distilled"], **changed}}, "it")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*SHAPE, "--distill_steps", "2"], "--distill_steps 2 without --support"),
        ([*SHAPE, *SUPPORT, "--distill_steps", "-1"], "distill_steps=-1 was given"),
        ([*SHAPE, *SUPPORT, "--distill_rows", "texts.jsonl"], "--distill_rows texts.jsonl without --distill_steps"),
        ([*SHAPE, *SUPPORT, "--distill_steps", "2", "--distill_learning_rate", "0"], "distill_learning_rate=0.0"),
        (
            [*SUPPORT, "--method", "uniform", "--keep", "2", "--train", "2", "--distill_steps", "2"],
            "all 2 kept layers are to be trained later",
        ),
        ([*SHAPE, *SUPPORT, "--distill_steps", "9", "--distill_learning_rate", "1e30"], "finite"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, capsys, words: list[str], said: str) -> None:
    assert emulate(tmp_path / "out", *words) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("fulgurite: error:")
    assert not (tmp_path / "out").exists()
