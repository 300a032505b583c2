"""What README says is what works: its commands are run (shortened), its Python is executed, its links and figures exist."""

from __future__ import annotations

import hashlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch

from benchmarks.science import STUDIES
from benchmarks.suite import all_benchmarks
from fulgurite.cli import VERBS, main
from fulgurite.evaluation.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = [
    line.split("#")[0].strip()
    for line in re.findall(r"^fulgurite .*$|(?<=`)fulgurite [a-z]+ --[^`]+(?=`)", README, re.M)
]
SHORT = "--trainer.max_steps 2 --trainer.limit_val_batches 1 --trainer.enable_progress_bar false --trainer.logger false".split()
RUNS = {"configs/quickstart.yaml": "quickstart", "configs/sft_tiny_llama.yaml": "sft-tiny-llama"}
RUNS["configs/cpo_playground_cpsft.yaml"] = "cpo-playground-cpsft"
PLAYGROUND = {
    "configs/glue/rte_schedule.yaml": "--model.backbone playground --data.path builtin --data.max_length 32".split()
}


def shortened(command: str, root: Path) -> list[str]:
    """The words behind ``fulgurite``, with short runs and the run's folder under ``root``."""
    for name in RUNS.values():
        command = command.replace(f"runs/{name}", str(root / name))
    words = shlex.split(command)[1:]
    config = next((word for word in words if word.startswith("configs/")), "")
    name = RUNS.get(config) or f"other-{hashlib.sha256(command.encode()).hexdigest()[:8]}"
    if words[0] in ("fit", "test"):
        words += ["--trainer.default_root_dir", str(root / name), "--trainer.accelerator", "cpu"]
    if words[0] == "fit" and "rte_schedule" in config:
        words += [*PLAYGROUND[config], *SHORT[2:], "--trainer.max_epochs", "7", "--model.stage_epochs", "1"]
        words += ["--data.limit_train", "8", "--model.stages", "7"]
    elif words[0] == "fit":
        steps = "4" if "--ckpt_path" in words else "2"
        words += ["--trainer.max_steps", steps, *SHORT[2:]]
        words += ["--data.documents", "200"] if "playground_base" in config else []
        words += ["--data.limit_train", "60", "--data.max_length", "512"] if "sft/" in config else []
        words += ["--trainer.num_sanity_val_steps", "0"] if "sft" in config or "preference" in config else []
    elif words[0] == "control":
        words += ["--count", "1", "--two_at_once", "false", "--max_new_tokens", "8", "--out", str(root / "control")]
    elif words[0] == "test":
        words += [
            "--trainer.limit_test_batches",
            "1",
            "--trainer.logger",
            "false",
            "--trainer.enable_progress_bar",
            "false",
        ]
    return words


@pytest.mark.slow
def test_commands_of_the_readme_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    ran = []
    for command in COMMANDS:
        if "--model.help" in command or "rows.csv" in command:
            continue
        assert main(shortened(command, tmp_path)) == 0, (command, capsys.readouterr())
        ran.append(command.split()[1])
    assert set(ran) == {"fit", "test", "export", "generate", "control"} and len(ran) >= 11
    assert "max |PEFT − adapter|" in capsys.readouterr().out
    assert (tmp_path / "quickstart" / "peft" / "adapter_config.json").is_file()


def test_own_rows_as_the_readme_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"a {word} film number {i},{stars}" for i in range(12) for word, stars in (("good", 5), ("bad", 1))]
    (tmp_path / "rows.csv").write_text("review,stars\n" + "\n".join(rows) + "\n")
    words = re.search(r"`(--data FilesDataModule [^`]+)`", README).group(1).split()
    model = "fit --model SoRAModule --model.backbone playground --trainer.accelerator cpu".split()
    assert main([*model, *words, *SHORT]) == 0, capsys.readouterr()


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    from transformers import BertConfig, BertForSequenceClassification

    monkeypatch.chdir(tmp_path)
    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    model = BertForSequenceClassification(config)
    names = {"model": model, "batch": {"input_ids": torch.randint(0, 60, (2, 7))}}
    snippet = next(s for s in re.findall(r"```python\n(.*?)```", README, re.S) if "attach(" in s)
    exec(snippet, names)  # the README's own text
    assert type(model.bert.encoder.layer[0].output.dense) is torch.nn.Linear, "detached at the end"
    assert (tmp_path / "out-peft" / "adapter_config.json").is_file()


# What inspect_ai calls our tasks, models and scorer looks like a path.
INSPECT_NAMES = {f"fulgurite/{name}" for name in (*TASKS, "MODEL", "NAME", "playground", "verdict")}


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_point_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_functions_and_benchmarks_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.-])(?:tests|benchmarks|configs|fulgurite)/[\w./-]*[\w/]", text):
        assert path in INSPECT_NAMES or (ROOT / path).exists(), path
    for name in re.findall(r"`(fulgurite(?:\.\w+)+)", text):
        pkgutil.resolve_name(name)
    for module, word in re.findall(r"(?:python -m |… ?)(benchmarks(?:\.\w+)+)(?: (\w+))?", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
        known = {"benchmarks.run": all_benchmarks(), "benchmarks.science": STUDIES}.get(module, {word: None})
        assert word in ("", "STUDY", *known), f"{module} {word}"


def test_the_site_lists_every_page():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES[2:])


def test_every_verb_is_shown():
    assert all(f"fulgurite {verb}" in README for verb in VERBS if verb not in ("validate", "predict"))


def test_nothing_is_left_to_fill_in():
    texts = {path: path.read_text(encoding="utf-8") for path in PAGES}
    texts |= {path: path.read_text(encoding="utf-8") for path in (ROOT / "configs").rglob("*.yaml")}
    for path, text in texts.items():
        assert not re.search(r"\b(TIME|MEMORY|SCIENCE|THRESHOLDS|TODO|TBD)\b", text), path
