"""`generate`: a prompt, a file that can be gone on with, a chat; and one sentence for what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fulgurite.commands.generate.file as file_module
from fulgurite.cli import main
from fulgurite.commands.generate.command import generate
from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.records.conversation import Turn
from fulgurite.generation import GenerationSettings, generate_text, load_for_generation

ASKED = ["What is 2 + 3?", "What is 4 + 4?", "film", "What is 2 + 3?", "Write a word."]


@pytest.fixture(scope="module")
def answers() -> list[str]:
    return [texts[0] for texts in generate_text(*load_for_generation("playground"), ASKED)]


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def prompts_file(folder: Path, asked: list[str] = ASKED) -> Path:
    file = folder / "in.jsonl"
    file.write_text(
        "".join(json.dumps({"id": i, "prompt": text}) + "\n" for i, text in enumerate(asked)), encoding="utf-8"
    )
    return file


def test_one_prompt(capsys: pytest.CaptureFixture[str], answers: list[str]) -> None:
    assert main(["generate", "--model", "playground", "--prompt", ASKED[0]]) == 0
    assert capsys.readouterr().out == answers[0] + "\n"
    generate(model="playground", prompt=ASKED[0], temperature=1.0, num_samples=2)
    assert [line[:4] for line in capsys.readouterr().out.splitlines()] == ["[1] ", "[2] "]


def test_a_file(tmp_path: Path, answers: list[str]) -> None:
    out = tmp_path / "new" / "out.jsonl"
    generate(model="playground", file=str(prompts_file(tmp_path)), output=str(out), batch_size=2)
    rows = rows_of(out)
    assert [(row["id"], row["prompt"], row["completion"]) for row in rows] == [
        (i, text, answer) for i, (text, answer) in enumerate(zip(ASKED, answers, strict=True))
    ]
    assert [file.name for file in out.parent.iterdir()] == ["out.jsonl"]


class Counted:
    """Stands in for generate_text: counts prompts, and stops the run after some calls."""

    def __init__(self, calls: int | None = None) -> None:
        self.asked: list[str] = []
        self.calls = calls

    def __call__(self, model: Any, tokenizer: Any, prompts: Any, settings: Any) -> list[list[str]]:
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls = None if self.calls is None else self.calls - 1
        self.asked += [turns[-1].content for turns in prompts]
        return [[f"answer to {turns[-1].content}"] * settings.num_samples for turns in prompts]


def test_an_interrupted_file_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [f"question {i % 7}" for i in range(10)]
    source, out = prompts_file(tmp_path, asked), tmp_path / "out.jsonl"
    monkeypatch.setattr(file_module, "generate_text", Counted(calls=1))
    with pytest.raises(KeyboardInterrupt):
        generate(model="playground", file=str(source), output=str(out), batch_size=1)
    assert not out.exists()
    part = tmp_path / "out.jsonl.part"
    assert len(rows_of(part)) == 4
    part.write_text(part.read_text()[:-20])  # the last line was cut off by the crash
    rest = Counted()
    monkeypatch.setattr(file_module, "generate_text", rest)
    generate(model="playground", file=str(source), output=str(out), batch_size=1)
    assert rest.asked == asked[3:]
    assert [row["completion"] for row in rows_of(out)] == [f"answer to {text}" for text in asked]
    assert not part.exists()
    # Rows that were appended to the input are answered, the others are kept.
    more = Counted()
    monkeypatch.setattr(file_module, "generate_text", more)
    generate(model="playground", file=str(prompts_file(tmp_path, [*asked, "new"])), output=str(out))
    assert more.asked == ["new"] and len(rows_of(out)) == 11


def test_a_line_after_a_cut_one_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = prompts_file(tmp_path, ["a", "b", "c"]), tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.part").write_text('{"id": 0, "prom')
    monkeypatch.setattr(file_module, "_BATCHES", 1)
    monkeypatch.setattr(file_module, "generate_text", Counted(calls=1))
    with pytest.raises(KeyboardInterrupt):
        generate(model="playground", file=str(source), output=str(out), batch_size=1)
    rest = Counted()
    monkeypatch.setattr(file_module, "generate_text", rest)
    generate(model="playground", file=str(source), output=str(out), batch_size=1)
    assert rest.asked == ["b", "c"]


def test_other_answers_are_not_overwritten_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = prompts_file(tmp_path), tmp_path / "out.jsonl"
    monkeypatch.setattr(file_module, "generate_text", Counted())
    generate(model="playground", file=str(source), output=str(out))
    before = out.read_text()
    for change in ({"max_new_tokens": 7}, {"template": "ultrachat"}, {"seed": 1}, {"system": "Be short."}):
        with pytest.raises(FileExistsError, match="is there already with 4 answers"):
            generate(model="playground", file=str(source), output=str(out), **change)  # type: ignore[arg-type]
    assert out.read_text() == before
    again = Counted()
    monkeypatch.setattr(file_module, "generate_text", again)
    generate(model="playground", file=str(source), output=str(out), seed=1, overwrite=True)
    assert again.asked == ASKED
    for content in ('{"notes": 1}\n', "my notes\n", '{\n "notes": 1\n}\n'):
        (tmp_path / "mine.jsonl").write_text(content)
        with pytest.raises(FileExistsError, match="with lines that are no answers"):
            generate(model="playground", file=str(source), output=str(tmp_path / "mine.jsonl"))
        assert (tmp_path / "mine.jsonl").read_text() == content


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("in.txt", "one\n\ntwo\n", [[("user", "one")], [("user", "two")]]),
        ("in.csv", 'instruction,input\nAdd,"1, 2"\nGo,\n', [[("user", "Add\n\n1, 2")], [("user", "Go")]]),
        (
            "in.json",
            json.dumps([{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}]),
            [[("system", "s"), ("user", "u")]],
        ),
        (
            "in.jsonl",
            json.dumps({"prompt": "u", "system": "s"}) + "\n" + json.dumps({"prompt": "v", "system": None}),
            [[("system", "s"), ("user", "u")], [("user", "v")]],
        ),
    ],
)
def test_kinds_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, expected: list[Any]
) -> None:
    seen: list[Any] = []

    def listen(model: Any, tokenizer: Any, prompts: Any, settings: Any) -> list[list[str]]:
        seen.extend([(turn.role, turn.content) for turn in turns] for turns in prompts)
        return [["x"] for _ in prompts]

    monkeypatch.setattr(file_module, "generate_text", listen)
    (tmp_path / name).write_text(content, encoding="utf-8")
    generate(model="playground", file=str(tmp_path / name), output=str(tmp_path / "out.jsonl"))
    assert seen == expected


def test_what_messages_and_rows_hold_beside_texts_does_not_vanish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools, calls and reasoning: laid before the model by the template, or refused."""
    call = [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    messages = [{"role": "user", "content": "rain?"}, {"role": "assistant", "content": "", "tool_calls": call}]
    messages += [
        {"role": "tool", "content": "no", "tool_call_id": "1"},
        {"role": "user", "content": "sure?", "weight": 0},
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"messages": messages}))
    with pytest.raises(ValueError, match=r"in\.jsonl, line 1: .*tool_calls, which the chat template never writes"):
        generate(model="playground", file=str(source), output=str(out))
    seen: list[Any] = []
    monkeypatch.setattr(file_module, "check_prompts", lambda model, tokenizer, prompts, places: seen.extend(prompts))
    monkeypatch.setattr(file_module, "generate_text", lambda *_: [["x"]])
    generate(model="playground", file=str(source), output=str(out))
    assert [turn.extra_keys for turn in seen[0]] == [(), ("tool_calls",), ("tool_call_id",), ()]
    monkeypatch.undo()
    for tools in (call, json.dumps(call)):
        source.write_text(json.dumps({"prompt": "a", "tools": tools}))
        with pytest.raises(ValueError, match=r"in\.jsonl, line 1: the column 'tools' offers functions to call"):
            generate(model="playground", file=str(source), output=str(tmp_path / "other.jsonl"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompts": "a"}\n', "none of the columns 'messages', 'prompt'.*found 'prompts'.*--column"),
        ('{"prompt": "a"}\n{"prompt": ""}\n', "in.jsonl, line 2: the column 'prompt' holds nothing"),
        ('{"prompt": "a", "completion": "b"}\n', "has a column 'completion' already"),
        ('{"messages": [{"role": "bot", "content": "a"}]}\n', "line 1: .*one of the roles system, user, assistant"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}\n', "the last turn must be the user's"),
        ('{"prompt": "a"}\n{"prompt": "b', "line 2: not valid JSON.*cut off"),
        ('{"instruction": "a", "input": 5}\n', "line 1: the column 'input' holds 5; a text or nothing is needed"),
        ('{"prompt": "a"}\n{"prompt": "half \\ud83d"}\n', "line 2: half a surrogate pair.* at character 5"),
        (
            '{"messages": [{"role": "user", "content": "\\ud83d"}]}\n',
            "line 1: (half a surrogate pair|the column 'messages' holds a chat)",
        ),
        ('{"prompt": "a"}\n{"prompt": "' + "film " * 600 + '"}\n', "in.jsonl, line 2: .*the model's window holds 512"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "in.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        generate(model="playground", file=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "playground"], "nothing to answer was given"),
        (["--model", "playground", "--prompt", "a", "--chat"], "--prompt and --chat were given"),
        (["--model", "playground", "--prompt", " "], "--prompt is empty"),
        (["--prompt", "a"], "no model was given"),
        (["--model", "playground", "--file", "nowhere.jsonl", "--output", "o.jsonl"], "nowhere.jsonl: no such file"),
        (["--model", "playground", "--file", "nowhere.jsonl"], "--file and --output belong together"),
        (["--model", "nowhere", "--prompt", "a"], "'nowhere' is neither a folder nor a model"),
        (["--model", "playground", "--adapter", "nowhere", "--prompt", "a"], "nowhere/adapter.json does not exist"),
        (["--model", "playground", "--prompt", "a", "--template", "chatlm"], "Did you mean 'chatml'"),
        (["--model", "playground", "--prompt", "a", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["--model", "playground", "--prompt", "film " * 600], "the model's window holds 512"),
        (["--model", "nowhere.ckpt", "--prompt", "a"], "nowhere.ckpt: no such file"),
        (["--model", "playground", "--prompt", "a", "--temperature", "-1"], "temperature=-1.0"),
        (["--model", "playground", "--prompt", "a", "--temperature", "1e-40"], "temperature=1e-40; allowed is 0"),
        (["--model", "playground", "--prompt", "a", "--seed", str(2**70)], "seed=1180591620717411303424; allowed"),
        (["--model", "playground", "--prompt", "half \ud83d"], "--prompt: half a surrogate pair"),
        (["--model", "playground", "--prompt", "a", "--system", "\ud83d"], "--system: half a surrogate pair"),
    ],
)
def test_bad_input(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *options]) == 1
    error = capsys.readouterr().err
    assert words in error and error.startswith("fulgurite: error: ") and "Traceback" not in error


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    lines: list[str] = []

    def read(prompt: str) -> str:
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr("builtins.input", read)
    yield lines


def test_a_chat(typed: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import fulgurite.commands.generate.chat as chat_module

    seen: list[list[tuple[str, str]]] = []

    def listen(model: Any, tokenizer: Any, prompts: Any, settings: Any, write: Any) -> list[list[str]]:
        seen.append([(turn.role, turn.content) for turn in prompts[0]])
        if prompts[0][-1].content == "stop":
            raise KeyboardInterrupt
        if prompts[0][-1].content == "long":
            raise ValueError("it does not fit")
        write("yes")
        return [["yes"]]

    monkeypatch.setattr(chat_module, "generate_text", listen)
    typed.extend(["one", "", "half \ud83d", "stop", "long", "/nonsense", "two", "/reset", "three", "/quit", "never"])
    assert main(["generate", "--model", "playground", "--system", "s", "--chat"]) == 0
    system, one, yes = ("system", "s"), ("user", "one"), ("assistant", "yes")
    history = [system, one, yes]
    assert seen == [
        [system, one],
        [*history, ("user", "stop")],
        [*history, ("user", "long")],
        [*history, ("user", "two")],
        [system, ("user", "three")],
    ]
    out = capsys.readouterr().out
    assert (
        "(stopped)" in out
        and "what was typed: half a surrogate pair" in out
        and "it does not fit; /reset" in out
        and "/nonsense is no command" in out
        and "forgotten" in out
    )
    assert typed == ["never"]


def test_a_chat_ends_with_the_input(typed: list[str], capsys: pytest.CaptureFixture[str], answers: list[str]) -> None:
    typed.append(ASKED[0])
    generate(model="playground", chat=True)
    assert answers[0] in capsys.readouterr().out


def test_a_checkpoint_brings_its_adapter_and_its_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning.pytorch import Trainer

    from fulgurite.adapters import LoRA
    from fulgurite.lightning_modules import SFTModule

    torch.manual_seed(0)
    module = SFTModule(backbone="playground", adapter=LoRA(rank=4, alpha=8))
    module.configure_model()
    assert module.adapter is not None and module.network is not None
    for branch in module.adapter.branches.values():
        nn.init.normal_(branch.lora_b, std=0.3)
    module.chat_template = "{% for m in messages %}Q {{ m['content'] }}{% endfor %}"
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    tokenizer = load_for_generation("playground").tokenizer
    tokenizer.chat_template = "{% for m in messages %}Q {{ m['content'] }}{% endfor %}{% if false %}{% endif %}"
    assert tokenizer.decode(encode_prompt(tokenizer, [Turn("user", "Hi")])) == "Q Hi"
    expected = generate_text(module.network, tokenizer, ["Hi"], GenerationSettings(max_new_tokens=16))[0][0]
    plain = generate_text(load_for_generation("playground").model, tokenizer, ["Hi"], GenerationSettings(16))[0][0]
    assert expected != plain
    for option in ("model", "adapter"):
        generate(**{option: str(tmp_path / "last.ckpt")}, prompt="Hi", max_new_tokens=16)  # type: ignore[arg-type]
        assert capsys.readouterr().out == expected + "\n"
    with pytest.raises(ValueError, match="which knows its model and its adapter"):
        generate(model="playground", adapter=str(tmp_path / "last.ckpt"), prompt="Hi")


def test_half_a_character_in_another_column_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "note": "\\ud83d"}\n')
    monkeypatch.setattr(file_module, "generate_text", Counted())
    generate(model="playground", file=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"))
    assert [row["note"] for row in rows_of(tmp_path / "out.jsonl")] == ["\ud83d"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["checkpoints/last.ckpt"], "give the checkpoint, .*last.ckpt"),
        (["epoch=1.ckpt"], "give the checkpoint, .*epoch=1.ckpt"),
        (["adapter_config.json"], "holds an adapter, not a model. Give it as --adapter"),
        (["notes.txt"], "holds no config.json, so that it is no model; give a folder"),
    ],
)
def test_a_folder_that_is_no_model(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        generate(model=str(tmp_path), prompt="a")


def test_an_adapter_of_another_base(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    loaded = load_for_generation("playground")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    other = LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=24, intermediate_size=32, **sizes))
    peft.get_peft_model(other, config).save_pretrained(tmp_path / "adapter")
    other.save_pretrained(tmp_path / "other")
    assert loaded.model.config.hidden_size != 24
    with pytest.raises(
        ValueError, match=r"adapter does not fit the model playground .*; give the model that it was trained on"
    ):
        generate(model="playground", adapter=str(tmp_path / "adapter"), prompt="a")
