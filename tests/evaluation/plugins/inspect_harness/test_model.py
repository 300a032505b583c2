"""A model of ours behind inspect_ai's interface: the answers are those of our own backend, however the requests arrive."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="pip install 'fulgurite[inspect]'")

import anyio
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    get_model,
)

from fulgurite.adapters import LoRA, attach
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.plugins.inspect_harness import registry
from fulgurite.evaluation.plugins.inspect_harness.tasks import CONTINUED
from fulgurite.generation import SamplingSettings, TransformersBackend, load_for_generation

LONG = "Add 12 and 30. Show your steps."  # the playground answers it with a function of several lines
PROMPTS = [LONG, *(f"What is {i} + {i * 3}?{' Think about it.' * (i % 4)}" for i in range(6))]


def made(name: str = "playground", **options: Any) -> Any:
    assert registry.fulgurite is not None  # importing it is what makes the model known
    return get_model(f"fulgurite/{name}", memoize=False, **options)


def ask(model: Any, inputs: list[Any], config: GenerateConfig | None = None) -> list[Any]:
    """The outputs of requests that are made at the same time; an exception in place of one that was refused."""
    found: list[Any] = [None] * len(inputs)

    async def run() -> None:
        async def one(place: int) -> None:
            try:
                found[place] = await model.generate(inputs[place], config=config or GenerateConfig(max_tokens=12))
            except Exception as error:
                found[place] = error

        async with anyio.create_task_group() as group:
            for place in range(len(inputs)):
                group.start_soon(one, place)

    anyio.run(run)
    return found


def text_of(output: ModelOutput) -> tuple[str, str]:
    return output.completion, output.stop_reason


def calls_of(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each call of the backend gets."""
    calls: list[int] = []
    sample: Callable[..., Any] = model.api.backend.sample

    def counted(requests: Any, *rest: Any) -> Any:
        calls.append(len(requests))
        return sample(requests, *rest)

    monkeypatch.setattr(model.api.backend, "sample", counted)
    return calls


def test_together_as_alone_and_as_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(batch_size=3)
    calls = calls_of(model, monkeypatch)
    together = ask(model, list(PROMPTS))
    assert calls == [len(PROMPTS)]
    alone = [ask(model, [prompt])[0] for prompt in PROMPTS]
    assert calls[1:] == [1] * len(PROMPTS)
    assert [text_of(output) for output in together] == [text_of(output) for output in alone]
    ours = TransformersBackend(*load_for_generation("playground"))
    settings = SamplingSettings(12)
    expected = {
        sample.prompt: sample for sample in ours.sample([[Turn("user", prompt)] for prompt in PROMPTS], 1, settings)
    }
    assert [output.completion for output in together] == [expected[i].text for i in range(len(PROMPTS))]
    assert len({output.completion for output in together}) > 1
    for place, output in enumerate(together):
        ids = expected[place].token_ids or ()
        assert output.usage.output_tokens == len(ids) and output.usage.input_tokens > len(PROMPTS[place].split())
        assert output.stop_reason == {"stop": "stop", "length": "max_tokens"}[expected[place].finish]
        assert output.metadata["made_with"]["settings"]["max_new_tokens"] == 12


def test_length_and_stop_texts() -> None:
    model = made()
    whole = ask(model, [LONG], GenerateConfig(max_tokens=30))[0]
    assert len(whole.completion) > 4
    short = ask(model, [LONG], GenerateConfig(max_tokens=2))[0]
    assert (short.usage.output_tokens, short.stop_reason) == (2, "max_tokens")
    assert whole.completion.startswith(short.completion)
    mark = whole.completion[6:9]
    stopped = ask(model, [LONG], GenerateConfig(max_tokens=30, stop_seqs=[mark]))[0]
    assert text_of(stopped) == (whole.completion.partition(mark)[0], "stop")


def test_settings_that_differ_share_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made()
    calls = calls_of(model, monkeypatch)
    found: list[Any] = []

    async def run() -> None:
        async def one(most: int) -> None:
            found.append(await model.generate(LONG, config=GenerateConfig(max_tokens=most)))

        async with anyio.create_task_group() as group:
            for most in (2, 3, 2, 3):
                group.start_soon(one, most)

    anyio.run(run)
    assert calls == [2, 2]
    assert sorted(output.usage.output_tokens for output in found) == [2, 2, 3, 3]


def test_draws_differ_by_epoch_and_come_again() -> None:
    config = GenerateConfig(max_tokens=12, temperature=1.5, seed=4)
    first = ask(made(), [LONG] * 4, config)
    again = ask(made(), [LONG] * 4, config)
    assert len({output.completion for output in first}) > 1
    assert sorted(map(text_of, first)) == sorted(map(text_of, again))
    several = ask(made(), [LONG], config.merge(GenerateConfig(num_choices=3)))[0]
    assert len(several.choices) == 3 and len({choice.message.text for choice in several.choices}) > 1
    assert len(set(several.metadata["seeds"])) == 3
    other = ask(made(), [LONG] * 4, config.merge(GenerateConfig(seed=5)))
    assert sorted(map(text_of, other)) != sorted(map(text_of, first))


def test_a_prompt_that_does_not_fit_is_refused_alone() -> None:
    good, bad, last = ask(made(), [PROMPTS[0], "word " * 5000, PROMPTS[2]])
    assert isinstance(bad, ValueError) and "the model's window holds" in str(bad)
    assert isinstance(good, ModelOutput) and isinstance(last, ModelOutput)


def test_the_window_ends_an_answer() -> None:
    model = made()
    window = model.api.backend.model.config.max_position_embeddings
    room = "a b c " * (window // 4)
    while isinstance(found := ask(model, [room], GenerateConfig(max_tokens=window))[0], ValueError):
        room = room[:-60]
    assert found.usage.total_tokens == window or found.stop_reason == "stop"
    assert found.stop_reason in ("model_length", "stop")


def test_log_probabilities() -> None:
    output = ask(made(), [PROMPTS[0]], GenerateConfig(max_tokens=5, logprobs=True))[0]
    content = output.choices[0].logprobs.content
    assert len(content) == output.usage.output_tokens
    assert all(part.logprob <= 0 for part in content) and any(part.logprob < 0 for part in content)


def test_a_text_that_is_continued(tmp_path: Path) -> None:
    model = made(template="none")
    text = "def add(a, b):\n    "
    marked = ChatMessageUser(content=text, metadata={CONTINUED: True})
    found = ask(model, [[marked]])[0]
    ours = TransformersBackend(*load_for_generation("playground", template="none"))
    assert found.completion == next(ours.sample([text], 1, SamplingSettings(12))).text
    refused = ask(model, [[ChatMessageSystem(content="Be brief."), marked]])[0]
    assert "it stands alone" in str(refused)
    assert "a chat needs a template" in str(ask(model, [text])[0])


def test_the_usual_template_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = made()
    model.api.tokenizer.chat_template = None
    first = ask(model, [PROMPTS[0]])[0]
    assert isinstance(first, ModelOutput) and model.api.tokenizer.chat_template
    assert caplog.text.count("the usual one is laid") == 1


def test_messages() -> None:
    model = made()
    chat = [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content="What is 1 + 1?"),
        ChatMessageAssistant(content="2"),
        ChatMessageUser(content="And 2 + 2?"),
    ]
    ours = TransformersBackend(*load_for_generation("playground"))
    turns = [Turn(message.role, message.text) for message in chat]
    assert ask(model, [chat])[0].completion == next(ours.sample([turns], 1, SamplingSettings(12))).text
    tool = ChatMessageTool(content="4", tool_call_id="1", function="add")
    assert "a message of tool" in str(ask(model, [[*chat, tool]])[0])


def test_tools_are_refused() -> None:
    from inspect_ai.tool import bash

    async def run() -> None:
        await made().generate("ls", tools=[bash()])

    with pytest.raises(ValueError, match="1 tools were given; a model in this process calls none"):
        anyio.run(run)


def test_options_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"-M trust_remote_code; known are adapter, .*never run here"):
        made(trust_remote_code=True)
    with pytest.raises(ValueError, match="base_url=http://x; the model runs in this process"):
        made(base_url="http://x")
    with pytest.raises(ValueError, match="export it first"):
        made("runs/last.ckpt")
    refused = ask(made(), ["a"], GenerateConfig(frequency_penalty=1.0))[0]
    assert isinstance(refused, ValueError) and "frequency_penalty=1.0" in str(refused)


def test_an_adapter_is_loaded(tmp_path: Path) -> None:
    import torch

    network, tokenizer = load_for_generation("playground")
    handle = attach(network, LoRA(rank=4))
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_b" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    handle.save(tmp_path)
    changed, plain = ask(made(adapter=str(tmp_path)), [PROMPTS[1]])[0], ask(made(), [PROMPTS[1]])[0]
    expected = next(
        TransformersBackend(network, tokenizer).sample([[Turn("user", PROMPTS[1])]], 1, SamplingSettings(12))
    )
    assert changed.completion == expected.text != plain.completion
