"""Templates: what is chosen, what is refused, and that the text is the one that transformers renders."""

from pathlib import Path
from typing import Any

import pytest

from fulgurite.data.encoding.templates import TEMPLATES, ChatRenderer, apply_template
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.records.conversation import Turn
from tests.data.chat_tokenizers import BUILT, HABITS, byte_level, playground, sentencepiece

CHAT = [
    Turn("system", "Be short."),
    Turn("user", "Hi"),
    Turn("assistant", "Yes"),
    Turn("user", "b"),
    Turn("assistant", "No"),
]
EXPECTED = {
    "ultrachat": "System: Be short.\nUser: Hi\nAssistant: Yes<eos>\nUser: b\nAssistant: No<eos>\n",
    "zephyr": "<|system|>\nBe short.<eos>\n<|user|>\nHi<eos>\n<|assistant|>\nYes<eos>\n"
    "<|user|>\nb<eos>\n<|assistant|>\nNo<eos>\n",
    "chatml": "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\nNo<|im_end|>\n",
    "mistral": "[INST] Be short.\n\nHi [/INST] Yes<eos>[INST] b [/INST] No<eos>",
    "alpaca": "Be short.\n\n### Instruction:\nHi\n\n### Response:\nYes<eos>\n\n### Instruction:\nb\n\n### Response:\nNo<eos>\n\n",
    "wizardmath": "Be short.\n\n### Instruction:\nHi\n\n### Response: Yes<eos>\n\n### Instruction:\nb\n\n### Response: No<eos>\n\n",
    "playground": "<|system|>\nBe short.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYes<|end|>\n"
    "<|user|>\nb<|end|>\n<|assistant|>\nNo<|end|>\n",
}


def messages(turns: list[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


@pytest.mark.parametrize("name", TEMPLATES)
def test_named_templates_write_this_text(name: str) -> None:
    tokenizer = apply_template(byte_level(), name)
    assert tokenizer.apply_chat_template(messages(CHAT), tokenize=False) == EXPECTED[name]
    prompt = tokenizer.apply_chat_template(messages(CHAT[:4]), tokenize=False, add_generation_prompt=True)
    assert EXPECTED[name].startswith(prompt) and EXPECTED[name][len(prompt) :].lstrip(" ").startswith("No")


@pytest.mark.parametrize("name", [*TEMPLATES, *HABITS])
def test_the_renderer_writes_what_transformers_writes(name: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = HABITS.get(name)
    apply_template(tokenizer, "auto" if name in HABITS else name)
    renderer = ChatRenderer(tokenizer)
    assert renderer.chat(CHAT)[0] == tokenizer.apply_chat_template(messages(CHAT), tokenize=False)
    expected = tokenizer.apply_chat_template(messages(CHAT[:4]), tokenize=False, add_generation_prompt=True)
    assert renderer.prompt(CHAT[:4]) == expected
    # The public way is there for versions of transformers that have no other.
    renderer._compiled = None
    assert renderer.prompt(CHAT[:4]) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_named_templates_mark_their_answers(name: str) -> None:
    text, marks = ChatRenderer(apply_template(byte_level(), name)).chat(CHAT)
    assert marks is not None
    assert [text[start:end].strip().split("<")[0] for start, end in marks] == ["Yes", "No"]


@pytest.mark.parametrize("given", [None, "auto"])
def test_the_tokenizers_own_template_comes_first(given: str | None) -> None:
    tokenizer = playground()
    own = tokenizer.chat_template
    assert own and apply_template(tokenizer, given).chat_template == own
    tokenizer.chat_template = None
    assert "Assistant:" in apply_template(tokenizer, given).chat_template


def test_the_template_is_saved_with_the_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    apply_template(byte_level(), "zephyr").save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.apply_chat_template(messages(CHAT), tokenize=False) == EXPECTED["zephyr"]


@pytest.mark.parametrize("kind", BUILT)
@pytest.mark.parametrize("name", ["ultrachat", "zephyr", "mistral", "alpaca"])
def test_bos_stands_there_once_or_not_at_all(kind: str, name: str) -> None:
    tokenizer = apply_template(BUILT[kind](), name)
    ids = tokenizer.apply_chat_template(messages(CHAT), return_dict=False)
    wanted = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert (ids[0] == tokenizer.bos_token_id) == wanted
    if tokenizer.bos_token_id != tokenizer.eos_token_id:
        assert ids.count(tokenizer.bos_token_id) == wanted


def test_a_jinja_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m['role'] }}={{ m['content'] }};{% endfor %}", encoding="utf-8")
    tokenizer = apply_template(sentencepiece(), str(file))
    assert tokenizer.apply_chat_template(messages(CHAT[1:3]), tokenize=False) == "user=Hi;assistant=Yes;"


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "empty"), ("{% for m in messages %}{{ m }}", "not valid Jinja"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_file_that_is_no_template(tmp_path: Path, content: Any, words: str) -> None:
    file = tmp_path / "mine.jinja"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    tokenizer = byte_level()
    with pytest.raises(ValueError, match=words):
        apply_template(tokenizer, str(file))
    assert tokenizer.chat_template is None


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'chatlm' is neither a file nor a known name.*Did you mean 'chatml'"):
        apply_template(byte_level(), "chatlm")


def test_marks_that_the_tokenizer_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"<\|im_start\|>, <\|im_end\|> are no tokens of this tokenizer"):
        apply_template(playground(), "chatml")


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="ends an answer with eos, and this tokenizer has none"):
        apply_template(tokenizer, "ultrachat")


def test_marks_of_several_tokens_are_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = playground()
    with caplog.at_level("INFO", logger="fulgurite"):
        apply_template(tokenizer, "zephyr")
        assert not caplog.records
        apply_template(_without_marks(), "zephyr")
    assert "<|assistant|>, <|user|> are written with several tokens" in caplog.text


def _without_marks() -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from tests.data.chat_tokenizers import _byte_level_backend

    state = _byte_level_backend().replace("<|user|>", "<|nobody|>").replace("<|assistant|>", "<|nothing|>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(state), eos_token="<eos>")


def test_roles_that_a_named_template_does_not_know() -> None:
    renderer = ChatRenderer(apply_template(byte_level(), "ultrachat"))
    with pytest.raises(ValueError, match=r"the chat template refuses these turns.*the role tool"):
        renderer.prompt([Turn("tool", "x")])


def test_an_encoders_tokenizer_gets_its_own_separators(word_tokenizer: Path) -> None:
    tokenizer = apply_template(load_tokenizer(str(word_tokenizer)))
    turns = [{"role": "user", "content": "good film"}, {"role": "assistant", "content": "bad"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "[CLS]good film[SEP]bad[SEP]"
    with pytest.raises(ValueError, match="'encoder' begins with cls"):
        apply_template(load_tokenizer("playground"), "encoder")
