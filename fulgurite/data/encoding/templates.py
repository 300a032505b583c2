r"""Chat templates: which text a conversation becomes.

The tokenizer's own template comes first. Where it has none, `ultrachat` is laid over it, the form of UltraChat and
UltraLink (`User: …\nAssistant: …<eos>`, https://arxiv.org/abs/2305.14233); other forms go by name, and any Jinja file
by its path. An encoder's tokenizer without eos gets `[CLS] turns, each with [SEP]` instead, as encoders were trained on
pairs. The template is put into `tokenizer.chat_template`, so that saving the tokenizer saves it, and whoever
loads the tokenizer later lays the same text before the model.

The named templates mark their answers with `{% generation %}`, begin with bos only where the tokenizer itself puts it
before a text, and end an answer with the tokenizer's eos; `chatml` and `playground` need their own tokens and refuse a
tokenizer without them. In UltraLM's releases a user's turn ended with eos too; here only answers do, as in UltraFuser
(https://arxiv.org/abs/2403.08281). The generation prompt of `ultrachat` and `mistral` ends without a space, and the
answer begins with one: a word is then the token that it is in running text.
"""

import json
import logging
import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulgurite.data.encoding.bounded import BoundedTemplate, Rendered, TemplateRunsOn, compiled
from fulgurite.data.encoding.prefixes import Beginnings, beginnings
from fulgurite.data.records.conversation import CONTENT_KEYS, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["NO_TEMPLATE", "TEMPLATES", "ChatRenderer", "apply_template", "lay_stored", "stored_template"]

_log = logging.getLogger(__name__)

NO_TEMPLATE = "none"  # the name, and what a checkpoint stores, where a model is trained and served on plain text
_DEFAULT = "ultrachat"
_MARK = re.compile(r"<\|[^|<>\s]+\|>")
_GENERATION = re.compile(r"\{%-?\s*generation\b")

_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\\n\\n"
)
_REFUSE = "{{ raise_exception('the role ' + message['role'] + ' has no place in this template') }}"


def _turns(system: str, user: str, assistant: str) -> str:
    """A template's loop; each argument is the Jinja text of a turn with that role."""
    return (
        "{% for message in messages %}"
        f"{{% if message['role'] == 'system' %}}{system}"
        f"{{% elif message['role'] == 'user' %}}{user}"
        f"{{% elif message['role'] == 'assistant' %}}{assistant}"
        f"{{% else %}}{_REFUSE}{{% endif %}}"
        "{% endfor %}"
    )


def _answer(text: str) -> str:
    return f"{{% generation %}}{{{{ {text} }}}}{{% endgeneration %}}"


def _prompt(text: str) -> str:
    return f"{{% if add_generation_prompt %}}{{{{ '{text}' }}}}{{% endif %}}"


_CONTENT = "message['content']"
_BODIES = {
    "ultrachat": _turns(
        f"{{{{ 'System: ' + {_CONTENT} + '\\n' }}}}",
        f"{{{{ 'User: ' + {_CONTENT} + '\\n' }}}}",
        "{{ 'Assistant:' }}" + _answer(f"' ' + {_CONTENT} + eos_token") + "{{ '\\n' }}",
    )
    + _prompt("Assistant:"),
    "zephyr": _turns(
        f"{{{{ '<|system|>\\n' + {_CONTENT} + eos_token + '\\n' }}}}",
        f"{{{{ '<|user|>\\n' + {_CONTENT} + eos_token + '\\n' }}}}",
        "{{ '<|assistant|>\\n' }}" + _answer(f"{_CONTENT} + eos_token") + "{{ '\\n' }}",
    )
    + _prompt("<|assistant|>\\n"),
    "chatml": _turns(
        f"{{{{ '<|im_start|>system\\n' + {_CONTENT} + '<|im_end|>\\n' }}}}",
        f"{{{{ '<|im_start|>user\\n' + {_CONTENT} + '<|im_end|>\\n' }}}}",
        "{{ '<|im_start|>assistant\\n' }}" + _answer(f"{_CONTENT} + '<|im_end|>'") + "{{ '\\n' }}",
    )
    + _prompt("<|im_start|>assistant\\n"),
    "mistral": "{% set space = namespace(system='') %}"
    + _turns(
        f"{{% set space.system = {_CONTENT} + '\\n\\n' %}}",
        f"{{{{ '[INST] ' + space.system + {_CONTENT} + ' [/INST]' }}}}{{% set space.system = '' %}}",
        _answer(f"' ' + {_CONTENT} + eos_token"),
    ),
    "alpaca": "{% if messages[0]['role'] != 'system' %}{{ '"
    + _PREAMBLE
    + "' }}{% endif %}"
    + _turns(
        f"{{{{ {_CONTENT} + '\\n\\n' }}}}",
        f"{{{{ '### Instruction:\\n' + {_CONTENT} + '\\n\\n' }}}}",
        "{{ '### Response:\\n' }}" + _answer(f"{_CONTENT} + eos_token") + "{{ '\\n\\n' }}",
    )
    + _prompt("### Response:\\n"),
    # WizardMath's: as alpaca, but the answer stands in the line of its heading.
    "wizardmath": "{% if messages[0]['role'] != 'system' %}{{ '"
    + _PREAMBLE
    + "' }}{% endif %}"
    + _turns(
        f"{{{{ {_CONTENT} + '\\n\\n' }}}}",
        f"{{{{ '### Instruction:\\n' + {_CONTENT} + '\\n\\n' }}}}",
        "{{ '### Response:' }}" + _answer(f"' ' + {_CONTENT} + eos_token") + "{{ '\\n\\n' }}",
    )
    + _prompt("### Response:"),
    "playground": _turns(
        f"{{{{ '<|system|>\\n' + {_CONTENT} + '<|end|>\\n' }}}}",
        f"{{{{ '<|user|>\\n' + {_CONTENT} + '<|end|>\\n' }}}}",
        "{{ '<|assistant|>\\n' }}" + _answer(f"{_CONTENT} + '<|end|>'") + "{{ '\\n' }}",
    )
    + _prompt("<|assistant|>\\n"),
}
_NEEDED = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "playground": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
}
TEMPLATES = tuple(_BODIES)
# Not among the names: it is what encoders get whose tokenizers end texts with sep.
_ENCODER = "{{ cls_token }}" + _turns(
    f"{{{{ {_CONTENT} + sep_token }}}}", f"{{{{ {_CONTENT} + sep_token }}}}", _answer(f"{_CONTENT} + sep_token")
)


def apply_template(tokenizer: "PreTrainedTokenizerBase", template: str | None = None) -> "PreTrainedTokenizerBase":
    """Gives the tokenizer its chat template and returns it.

    Args:
        tokenizer: its `chat_template` is set.
        template: "auto" or None for the tokenizer's own, else `ultrachat`, or `encoder` where there is sep and no eos; one of
            TEMPLATES; a Jinja file's path; or "none": prompts and answers stay plain text, and the tokenizer keeps no template.

    Raises:
        ValueError: an unknown name, a file that is no template, or a tokenizer without the tokens that a turn ends with.
    """
    if template == NO_TEMPLATE:
        tokenizer.chat_template = None
        return tokenizer
    if template in (None, "auto"):
        own = tokenizer.chat_template
        if isinstance(own, dict):  # several, by use; the others are for tools and retrieval
            own = own.get("default") or next(iter(own.values()))
        if own:
            tokenizer.chat_template = own
            return tokenizer
        template = _DEFAULT
        if tokenizer.eos_token is None and tokenizer.cls_token and tokenizer.sep_token:
            template = "encoder"
    assert template is not None
    if template == "encoder":
        text = _encoder(tokenizer)
    elif template in _BODIES:
        text = _named(tokenizer, template)
    else:
        text = _from_file(template)
    before = tokenizer.chat_template
    tokenizer.chat_template = text
    try:
        renderer = ChatRenderer(tokenizer)
        probe = renderer.prompt([Turn("user", "a")])
        if unused := renderer.unused([Turn("user", "a"), Turn("assistant", "b")]):
            raise ValueError(f"the template never writes {' and '.join(unused)}; correct the names in it")
    except ValueError as error:
        tokenizer.chat_template = before
        raise ValueError(f"apply_template: {template}: {error}") from error
    _tell_split_marks(tokenizer, template, probe)
    return tokenizer


def lay_stored(tokenizer: "PreTrainedTokenizerBase", stored: str | None) -> "PreTrainedTokenizerBase":
    """Gives the tokenizer the template that a checkpoint was trained with, and returns it.

    Args:
        tokenizer: its `chat_template` is set.
        stored: the Jinja text; "none" for a model of plain text; None where the checkpoint does not say.
    """
    if stored is not None:
        tokenizer.chat_template = None if stored == NO_TEMPLATE else stored
    return tokenizer


def stored_template(tokenizer: "PreTrainedTokenizerBase", template: str | None) -> str | None:
    """What a checkpoint stores for :func:`lay_stored`.

    Args:
        tokenizer: as it was trained with.
        template: what :func:`apply_template` was given.
    """
    own = tokenizer.chat_template
    return own if isinstance(own, str) else template if template == NO_TEMPLATE else None


def _named(tokenizer: "PreTrainedTokenizerBase", name: str) -> str:
    missing = [mark for mark in _NEEDED.get(name, ()) if mark not in tokenizer.get_added_vocab()]
    if missing:
        raise ValueError(
            f"apply_template: {name!r} was given; its marks {', '.join(missing)} are no tokens of this tokenizer, so that "
            "no answer would end with one; take 'ultrachat' or 'zephyr', which end with the tokenizer's own eos, or add "
            "the tokens to the tokenizer and train their embeddings"
        )
    if name not in _NEEDED and tokenizer.eos_token is None:
        raise ValueError(
            f"apply_template: {name!r} ends an answer with eos, and this tokenizer has none; set tokenizer.eos_token"
        )
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return ("{{ bos_token }}" if begins else "") + _BODIES[name]


def _encoder(tokenizer: "PreTrainedTokenizerBase") -> str:
    if not (tokenizer.cls_token and tokenizer.sep_token):
        raise ValueError(
            "apply_template: 'encoder' begins with cls and ends turns with sep, and this tokenizer lacks one of them; take another "
            "template"
        )
    return _ENCODER


def _from_file(path: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        near = get_close_matches(path, TEMPLATES, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"apply_template: {path!r} is neither a file nor a known name; allowed are 'auto', 'none', "
            f"{', '.join(map(repr, TEMPLATES))} or the path of a Jinja file.{guess}"
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"apply_template: {path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    if not text.strip():
        raise ValueError(f"apply_template: {path}: the file is empty; write a Jinja chat template into it")
    if file.suffix.lower() == ".json":
        raise ValueError(
            f"apply_template: {path}: a JSON file; write the Jinja text of its chat_template into a file of its own"
        )
    return text


def _tell_split_marks(tokenizer: "PreTrainedTokenizerBase", template: str, rendered: str) -> None:
    marks = sorted(set(_MARK.findall(rendered)) - set(tokenizer.get_added_vocab()))
    if marks:
        _log.info("template %s: %s are written with several tokens each in this tokenizer", template, ", ".join(marks))


class ChatRenderer:
    """Lays a tokenizer's chat template over turns; the text is that of `tokenizer.apply_chat_template`.

    Args:
        tokenizer: with a chat template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                "ChatRenderer: these turns are a chat, and the tokenizer has no chat template; give template='auto' or a name "
                "instead of 'none', or call apply_template(tokenizer) first"
            )
        self.tokenizer = tokenizer
        self.template = tokenizer.get_chat_template()
        self.marks = _GENERATION.search(self.template) is not None
        self._compiled: BoundedTemplate | None = None
        try:
            # What apply_chat_template renders itself; called directly it costs a third, and tells the marked characters.
            self._compiled = compiled(self.template)
        except TemplateRunsOn:
            raise
        except ImportError:
            self.marks = False
        except Exception as error:  # jinja2's own errors; jinja2 is not imported here
            raise ValueError(f"the chat template is not valid Jinja ({error}); correct it") from error
        self._variables: dict[str, Any] = {"tools": None, "documents": None, **tokenizer.special_tokens_map}

    def unused(self, turns: Sequence[Turn], tools: str | None = None) -> list[str]:
        """What of the turns the template never writes: it would vanish without a word.

        Args:
            turns: of a chat.
            tools: the tools that the model may call, as JSON.

        Returns:
            Names such as "tool_calls" or "the system's text", each once.
        """
        keys = [*(["tools"] if tools is not None else []), *(key for turn in turns for key in turn.extra_keys)]
        given = {turn.role for turn in turns if turn.content}
        dropped = [f"the {role}'s text" for role in self._dropped() if role in given]
        return [*dropped, *(key for key in self._unwritten(keys) if key in CONTENT_KEYS)]

    def _dropped(self) -> tuple[str, ...]:
        """The roles whose texts the template leaves out; of a role that it refuses it says so itself."""
        if self._compiled is None:
            return ()
        return _dropped(self._compiled, tuple(sorted((k, v) for k, v in self._variables.items() if isinstance(v, str))))

    def ignored(self, turns: Sequence[Turn]) -> list[str]:
        """Names of what messages hold beside their content (an id, a name) that the template never looks at."""
        return [
            key for key in self._unwritten([k for turn in turns for k in turn.extra_keys]) if key not in CONTENT_KEYS
        ]

    def _unwritten(self, keys: Sequence[str]) -> list[str]:
        return [key for key in dict.fromkeys(keys) if re.search(rf"\b{re.escape(key)}\b", self.template) is None]

    def prompt(self, turns: Sequence[Turn], tools: str | None = None) -> str:
        """The turns and the beginning of the answer that is to come."""
        return self._render(turns, True, tools).text

    def chat(self, turns: Sequence[Turn], tools: str | None = None) -> tuple[str, list[tuple[int, int]] | None]:
        """The turns as text, and the stretches of characters that `{% generation %}` marks; None without such marks."""
        rendered = self._render(turns, False, tools)
        return rendered.text, rendered.marks if self.marks else None

    def beginnings(self, turns: Sequence[Turn], tools: str | None, prompts: bool) -> Beginnings | None:
        """The text of every beginning of a chat, where one rendering tells it; None elsewhere.

        Args:
            turns: the whole chat.
            tools: the tools that the model may call, as JSON.
            prompts: with the beginning of the answer that is to come, as :meth:`prompt`, or without, as :meth:`chat`.
        """
        if self._compiled is None:
            return None
        return beginnings(self._compiled, _messages(turns), prompts, self._with(tools))

    def _with(self, tools: str | None) -> dict[str, Any]:
        return self._variables if tools is None else {**self._variables, "tools": json.loads(tools)}

    def _render(self, turns: Sequence[Turn], add_generation_prompt: bool, tools: str | None) -> Rendered:
        messages, variables = _messages(turns), self._with(tools)
        try:
            if self._compiled is not None:
                return self._compiled.render(messages, add_generation_prompt, variables)
            text = self.tokenizer.apply_chat_template(
                messages, tools=variables["tools"], tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateRunsOn:
            raise
        except Exception as error:  # whatever the template raises: jinja2's errors, or Python's out of an expression
            raise _refusal(error) from error
        return Rendered(str(text), [])


@lru_cache(maxsize=64)
def _dropped(template: BoundedTemplate, tokens: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    marks = {"system": "Mark one.", "user": "Mark two?", "assistant": "Mark three."}
    variables = {"tools": None, "documents": None, **dict(tokens)}
    for roles in (("system", "user", "assistant"), ("user", "assistant")):
        try:
            messages = [{"role": role, "content": marks[role]} for role in roles]
            text = template.render(messages, False, variables).text
        except TemplateRunsOn:
            raise
        except Exception:  # it refuses a system, or so short a chat
            continue
        return tuple(role for role in roles if marks[role].casefold() not in text.casefold())
    return ()


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    return [{"role": t.role, "content": t.content, **({} if t.extra is None else json.loads(t.extra))} for t in turns]


def _refusal(error: Exception) -> ValueError:
    return ValueError(f"the chat template refuses these turns ({error}); correct the roles, or choose another template")
