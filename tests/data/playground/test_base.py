"""The playground's names, its tokenizer and its base folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fulgurite.data.playground import SCHEMAS, Task, builtin_rows, conversation, documents, resolve_backbone
from fulgurite.data.playground.build import SPECIAL_TOKENS, main, write_half


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(resolve_backbone("playground"))


def test_names_of_the_base_resolve_to_its_folder_and_others_stay(tmp_path: Path, monkeypatch) -> None:
    folder = Path(resolve_backbone("playground"))
    assert {path.name for path in folder.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}
    assert resolve_backbone("playground-base") == str(folder)
    for name in ("microsoft/deberta-v3-base", str(tmp_path), "./playgrounds"):
        assert resolve_backbone(name) == name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "playground-mine").mkdir()
    assert resolve_backbone("playground-mine") == "playground-mine"


def test_an_unknown_playground_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"'playground-huge'; the playground has playground, playground-base, playground-text,"
    ):
        resolve_backbone("playground-huge")


def test_builtin_rows() -> None:
    assert builtin_rows("glue/rte", "validation", count=3)[2]["idx"] == 2
    train, validation = builtin_rows("text", "train", count=300), builtin_rows("text", "validation", count=50)
    assert len(train) == 300 and len(validation) == 50 and list(train[0]) == ["text"]
    assert not {row["text"] for row in train} & {row["text"] for row in validation}
    assert builtin_rows("text", "train", seed=1, count=5) != train[:5]
    assert len(builtin_rows("text", "validation")) == 500
    with pytest.raises(ValueError, match=r"builtin_rows: schema 'glue'; allowed are glue/cola") as error:
        builtin_rows("glue", "train")
    assert all(schema in str(error.value) for schema in SCHEMAS)


def test_importing_the_playground_is_light() -> None:
    code = (
        "import sys, fulgurite.data.playground; heavy = {'torch', 'transformers', 'tokenizers', 'datasets', 'lightning'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_special_tokens(tokenizer) -> None:
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == list(range(7))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == 1024
    assert tokenizer.model_max_length == 512


def test_round_trip(tokenizer) -> None:
    texts = [*documents(7, 200), "clichés, naïve £5 東京 🙂\ttabs\n\n  def f(x):\n", "10 -3.5 2**7", " a  b "]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_digits_are_separate(tokenizer) -> None:
    assert len(tokenizer("2024", add_special_tokens=False)["input_ids"]) == 4


def test_one_text_and_a_pair(tokenizer) -> None:
    a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("A dull film.", "It is good."))
    end = SPECIAL_TOKENS.index("<|end|>")
    assert tokenizer("A dull film.")["input_ids"] == [1, *a]
    assert tokenizer("A dull film.", "It is good.")["input_ids"] == [1, *a, end, *b, end]
    assert "token_type_ids" not in tokenizer("A dull film.", "It is good.")


def test_chat_template_renders_what_the_base_was_trained_on(tokenizer) -> None:
    messages = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "here"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<bos>" + conversation(Task("text", "reading", "Where?", "here"))
    start = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert start == "<bos><|user|>\nWhere?<|end|>\n<|assistant|>\n"
    system = [{"role": "system", "content": "Be brief."}, *messages]
    assert tokenizer.apply_chat_template(system, tokenize=False).startswith(
        "<bos><|system|>\nBe brief.<|end|>\n<|user|>"
    )


def test_generation_markers_cover_answers_and_their_end(tokenizer) -> None:
    messages = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "in the park"},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Anna"},
    ]
    out = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    kept = [token for token, keep in zip(out["input_ids"], out["assistant_masks"], strict=True) if keep]
    assert tokenizer.decode(kept) == "in the park<|end|>Anna<|end|>"


@pytest.mark.slow
def test_the_folder_is_what_build_makes(tmp_path: Path) -> None:
    main(["tokenizer", "--folder", str(tmp_path)])
    base = Path(resolve_backbone("playground"))
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json", "config.json"}
    for name in ("tokenizer_config.json", "config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((base / name).read_text())
    # Other versions of tokenizers may lay the file out differently; the merges are what matters.
    made, kept = (json.loads((folder / "tokenizer.json").read_text())["model"] for folder in (tmp_path, base))
    assert made["vocab"] == kept["vocab"]


def test_the_base_loads_completely_and_knows_its_text(tokenizer) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(resolve_backbone("playground"), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.config.tie_word_embeddings and model.config.pad_token_id == 0
    assert sum(value.numel() for value in model.parameters()) < 1_000_000
    texts = list(documents(0, 40, split="validation"))
    batch = tokenizer([text + "<eos>" for text in texts], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = model.float().eval()(**batch, labels=labels).loss.item()
    # A uniform guess costs ln 1024 = 6.9, a unigram model about 5.
    assert loss < 1.3


def test_half_refuses_what_float16_cannot_hold_and_a_missing_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    with pytest.raises(FileNotFoundError, match=r"write_half: .*model.safetensors is needed"):
        write_half(tmp_path, tmp_path)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    save_file({"w": torch.tensor([1e6]), "lm_head.weight": torch.ones(2)}, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"w of .* leaves float16"):
        write_half(source, target)
    assert list(target.iterdir()) == []
    save_file({"w": torch.tensor([0.1]), "lm_head.weight": torch.ones(2)}, source / "model.safetensors")
    write_half(source, target)
    assert {name: value.dtype for name, value in load_file(target / "model.safetensors").items()} == {
        "w": torch.float16
    }
    assert [path.name for path in target.iterdir()] == ["model.safetensors"]
