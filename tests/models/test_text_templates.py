"""Chats through templates: tools, calls, results and thinking reach the model, and all in them is text."""

import json

import pytest

from domain.errors import InvalidRequest, UnsupportedCapability
from domain.prompt import Chat, FillInMiddle, Message, Role
from domain.tools import Tool, ToolCall, ToolChoice, ToolMode
from models.templates import capabilities_of
from models.text.template import ChatTemplate
from models.text.tokenizer import TextTokenizer, TokenizerSettings
from tests.models.tiny import CHAT_TEMPLATE, byte_tokenizer, tool_tokenizer

USER = Message(Role.USER, "what is the weather?")
WEATHER = Tool("weather", "tells the weather", '{"type": "object", "properties": {"city": {"type": "string"}}}')
SHOWS_ALL = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message | tojson }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMS = "{% for m in messages %}<|im_start|>{{ m.content | trim }}<|im_end|>\n{% endfor %}<|im_start|>"
SWITCHED = (
    CHAT_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
OPENS = CHAT_TEMPLATE + "<think>\n"


def with_template(template: str) -> TextTokenizer:
    return TextTokenizer(tool_tokenizer(), TokenizerSettings(template))


def shown(chat: Chat, template: str = SHOWS_ALL) -> list[dict[str, object]]:
    rendered = with_template(template).render(chat)
    return [json.loads(turn.partition("<|im_end|>")[0]) for turn in rendered.split("<|im_start|>")[1:-1]]


def test_tools_are_shown_as_the_template_expects_them() -> None:
    rendered = with_template(SHOWS_ALL).render(Chat((USER,), tools=(WEATHER,)))
    assert json.loads(rendered.splitlines()[0]) == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "tells the weather",
            "parameters": json.loads(WEATHER.parameters),
        },
    }


def test_calls_have_their_arguments_as_objects_and_results_know_their_calls() -> None:
    calls = (ToolCall("", "weather", '{"city": "Rio"}'), ToolCall("call_b", "time", "{}"))
    chat = Chat(
        (
            USER,
            Message(Role.ASSISTANT, "", thinking="hm", tool_calls=calls),
            Message(Role.TOOL, "noon", tool_call_id="call_b"),
            Message(Role.TOOL, "sunny"),
        )
    )
    _, asked, second, first = shown(chat)
    assert asked["reasoning_content"] == "hm"
    assert asked["tool_calls"] == [
        {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rio"}}},
        {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": {}}},
    ]
    assert (second["name"], second["tool_call_id"]) == ("time", "call_b")
    assert (first["name"], first["tool_call_id"]) == ("weather", "call_0")


def test_ids_of_calls_fit_mistral_s_templates() -> None:
    calls = (ToolCall("call_x7k2m9qa", "weather", "{}"), ToolCall("abcDEF123", "weather", "{}"))
    chat = Chat((USER, Message(Role.ASSISTANT, "", tool_calls=calls), Message(Role.TOOL, "sunny")))
    _, asked, result = shown(chat, SHOWS_ALL + "{# [TOOL_CALLS] #}")
    assert isinstance(asked["tool_calls"], list)
    ids = [call["id"] for call in asked["tool_calls"]]
    assert len(ids[0]) == 9 and ids[0].isalnum() and ids[0] == result["tool_call_id"]
    assert ids[1] == "abcDEF123"


def test_only_tools_that_may_be_called_are_shown() -> None:
    other = Tool("time")
    tokenizer = with_template(SHOWS_ALL)
    none = Chat((USER,), tools=(WEATHER, other), tool_choice=ToolChoice(ToolMode.NONE))
    one = Chat((USER,), tools=(WEATHER, other), tool_choice=ToolChoice(ToolMode.AUTO, ("time",)))
    assert tokenizer.render(none) == tokenizer.render(Chat((USER,)))
    assert tokenizer.render(one) == tokenizer.render(Chat((USER,), tools=(other,)))


@pytest.mark.parametrize("mark", ["<|im_end|>", "<tool_call>", "</think>", "[TOOL_CALLS]"])
def test_control_tokens_in_anything_that_a_caller_writes_are_only_text(mark: str) -> None:
    tokenizer = with_template(SHOWS_ALL)

    def control(text: str) -> list[int]:
        tool = Tool("weather", text, json.dumps({"type": "object", "properties": {text: {"description": text}}}))
        call = ToolCall("call_1" + text, "weather", json.dumps({text: [text]}))
        chat = Chat(
            (
                Message(Role.USER, text),
                Message(Role.ASSISTANT, text, thinking=text, tool_calls=(call,)),
                Message(Role.TOOL, text, tool_name=text),
                Message(text, text),
            ),
            tools=(tool,),
            reasoning_effort=text,
        )
        return [token for token in tokenizer.encode(chat) if token in tokenizer._added]

    assert control(f"x{mark}y") == control("xy")
    plain = tokenizer.encode(Chat((Message(Role.USER, f"x{mark}y"),)))
    assert f"x{mark}y" in tokenizer.spell(plain)


def test_text_with_a_hole_is_marked_and_control_tokens_in_it_are_only_text() -> None:
    tokenizer = TextTokenizer(tool_tokenizer(), TokenizerSettings(None))
    ids = tokenizer.encode(FillInMiddle("def f(<|fim_middle|>", "): pass"))
    assert tokenizer.spell(ids) == "<|fim_prefix|>def f(<|fim_middle|><|fim_suffix|>): pass<|fim_middle|>"
    assert [tokenizer.spell([token]) for token in ids if token in tokenizer._added] == [
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
    ]


def test_a_vocabulary_without_marks_cannot_fill_in() -> None:
    with pytest.raises(UnsupportedCapability):
        TextTokenizer(byte_tokenizer(), TokenizerSettings(None)).encode(FillInMiddle("a", "b"))


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, TRIMS])
@pytest.mark.parametrize("begun", ["The capital is ", "", " x"])
def test_a_last_message_is_left_open(template: str, begun: str) -> None:
    chat = Chat((USER, Message(Role.ASSISTANT, begun)), continue_final_message=True)
    rendered = with_template(template).render(chat)
    assert rendered.endswith(begun.lstrip() if template is TRIMS else begun)
    assert not rendered.rstrip().endswith("<|im_end|>")


def test_a_template_that_hides_the_last_message_cannot_continue_it() -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_template("{{ messages[0].content }}").render(
            Chat(
                (
                    USER,
                    Message(Role.ASSISTANT, "so"),
                ),
                continue_final_message=True,
            )
        )
    assert caught.value.field == "continue_final_message"


@pytest.mark.parametrize("template", [SWITCHED, OPENS, CHAT_TEMPLATE + "{# <think> #}"])
def test_thinking_that_is_not_wanted_is_over_before_it_begins(template: str) -> None:
    assert with_template(template).render(Chat((USER,), think=False)).endswith("<think>\n\n</think>\n\n")


def test_what_a_template_cannot_show_is_refused() -> None:
    tokenizer = with_template(CHAT_TEMPLATE)
    result = Message(Role.TOOL, "sunny", tool_name="weather")
    for chat, field in (
        (Chat((USER,), tools=(WEATHER,)), "tools"),
        (Chat((USER, result)), "messages"),
        (Chat((USER,), think=True), "think"),
    ):
        with pytest.raises(UnsupportedCapability) as caught:
            tokenizer.render(chat)
        assert caught.value.field == field
    unused = Chat((USER,), tools=(WEATHER,), tool_choice=ToolChoice(ToolMode.NONE), think=False)
    assert tokenizer.render(unused) == tokenizer.render(Chat((USER,)))


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ 'x' * 999999999 }}",
        "{{ 9 ** 99999 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no') }}",
        "{{ 1 + 'a' }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a.real %}{% endfor %}{% endfor %}",
        "{% if %}",
    ],
)
def test_a_hostile_template_is_stopped(hostile: str) -> None:
    with pytest.raises(InvalidRequest):
        ChatTemplate(hostile, seconds=0.2, characters=10_000_000).render({"messages": [1]})


def test_what_a_model_can_do_is_read_off_its_template() -> None:
    assert capabilities_of(CHAT_TEMPLATE) == ("completion",)
    assert capabilities_of("{% if tools %}x{% endif %}") == ("completion", "tools")
    assert capabilities_of("{{ content.split('<think>') }}", insert=True) == ("completion", "thinking", "insert")
    assert capabilities_of("his toolset") == ("completion",)
