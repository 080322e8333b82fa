"""What a provider is told of a request, and what is refused because it could not be told."""

from dataclasses import replace
from typing import Any

import pytest

from domain.constraint import AnyJson, Choice, JsonSchema, Regex
from domain.errors import BadResponse, UnsupportedCapability, UnsupportedParameter
from domain.generation import GenerationRequest, SamplingParams
from domain.prompt import Chat, Continuation, FillInMiddle, Message, RawText, Role, TokenIds
from domain.tools import Tool, ToolCall, ToolChoice, ToolMode
from infrastructure.providers.chat_request import request_to
from infrastructure.providers.embedding_model import shares
from infrastructure.providers.entry import EXTENSIONS, ProvidedModel, ProviderEntry
from infrastructure.providers.events import MAX_ANSWER, MAX_LINE, EventReader
from infrastructure.providers.failures import retry_after

PLAIN = ProviderEntry("lab", "http://lab.example/v1")
ABLE = replace(PLAIN, extensions=frozenset(EXTENSIONS))
USER = Message(Role.USER, "hi")
WEATHER = Tool("weather", "tells it", '{"type": "object"}', strict=True)
CLOCK = Tool("clock")


def model(entry: ProviderEntry = PLAIN, *more: str, context_length: int = 4096) -> ProvidedModel:
    return ProvidedModel("far", "far-away", entry, context_length=context_length, capabilities=("completion", *more))


def said(to: ProvidedModel, prompt: Any = None, **request: Any) -> dict[str, Any]:
    return request_to(to, GenerationRequest(prompt or Chat((USER,)), **request))[1]


def test_a_bare_request_says_no_more_than_it_must() -> None:
    path, body = request_to(model(), GenerationRequest(Chat((USER,))))
    assert path == "/chat/completions"
    assert body == {
        "model": "far-away",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_everything_that_openai_s_api_has_is_passed_on() -> None:
    params = SamplingParams(
        temperature=0.0,
        top_p=0.5,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        seed=7,
        max_tokens=9,
        stop=("a", "b"),
        logit_bias=((3, -100.0),),
        logprobs=4,
    )
    body = said(model(), sampling=params, n=3)
    assert {name: body[name] for name in body if name not in ("model", "messages", "stream", "stream_options")} == {
        "temperature": 0.0,
        "top_p": 0.5,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "seed": 7,
        "max_tokens": 9,
        "stop": ["a", "b"],
        "logit_bias": {"3": -100.0},
        "logprobs": True,
        "top_logprobs": 4,
        "n": 3,
    }
    assert (
        said(model(replace(PLAIN, max_tokens_field="max_completion_tokens")), sampling=params)["max_completion_tokens"]
        == 9
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 3),
        ("min_p", 0.1),
        ("typical_p", 0.5),
        ("repetition_penalty", 1.1),
        ("min_tokens", 2),
        ("ignore_eos", True),
        ("stop_token_ids", (5,)),
    ],
)
def test_what_goes_beyond_it_is_passed_on_where_it_is_honoured_and_refused_by_name_elsewhere(
    field: str, value: Any
) -> None:
    params = SamplingParams(**{field: value})
    assert said(model(ABLE), sampling=params)[field] == (list(value) if isinstance(value, tuple) else value)
    with pytest.raises(UnsupportedParameter) as caught:
        said(model(), sampling=params)
    assert caught.value.field == field


def test_a_window_of_penalties_is_refused_with_a_penalty_only() -> None:
    assert "repetition_penalty" not in said(model(ABLE), sampling=SamplingParams(repeat_last_n=8))
    with pytest.raises(UnsupportedParameter) as caught:
        said(model(ABLE), sampling=SamplingParams(repetition_penalty=1.1, repeat_last_n=8))
    assert caught.value.field == "repeat_last_n"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (GenerationRequest(TokenIds((1, 2))), "prompt"),
        (GenerationRequest(Continuation((1, 2), Chat((USER,)))), "context"),
        (GenerationRequest(FillInMiddle("a", "b")), "suffix"),
        (GenerationRequest(Chat((USER,)), prompt_logprobs=1), "prompt_logprobs"),
        (GenerationRequest(Chat((USER,)), num_ctx=512), "num_ctx"),
        (GenerationRequest(Chat((USER,)), shift_keeping=4), "shift"),
        (GenerationRequest(Chat((USER,), add_generation_prompt=False)), "add_generation_prompt"),
        (
            GenerationRequest(Chat((Message(Role.ASSISTANT, "a"),), continue_final_message=True)),
            "continue_final_message",
        ),
        (GenerationRequest(Chat((USER,), tools=(CLOCK,))), "tools"),
        (GenerationRequest(Chat((USER,), think=True)), "think"),
        (GenerationRequest(Chat((USER,)), constraint=Regex("a+")), "constraint"),
        (GenerationRequest(RawText("a"), constraint=AnyJson()), "constraint"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(request_: GenerationRequest, field: str) -> None:
    with pytest.raises((UnsupportedParameter, UnsupportedCapability)) as caught:
        request_to(model(), request_)
    assert caught.value.field == field


def test_a_context_as_large_as_the_model_s_is_no_wish() -> None:
    assert "num_ctx" not in said(model(context_length=512), num_ctx=512)
    with pytest.raises(UnsupportedParameter):
        said(model(context_length=0), num_ctx=512)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice(), None),
        (ToolChoice(ToolMode.NONE), "none"),
        (ToolChoice(ToolMode.REQUIRED), "required"),
        (ToolChoice(ToolMode.REQUIRED, ("clock",)), {"type": "function", "function": {"name": "clock"}}),
        (
            ToolChoice(ToolMode.AUTO, ("clock",)),
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "clock"}}]},
            },
        ),
    ],
)
def test_tools_and_their_choice_are_passed_on(choice: ToolChoice, expected: Any) -> None:
    chat = Chat((USER,), tools=(WEATHER, CLOCK), tool_choice=choice, parallel_tool_calls=False)
    body = said(model(PLAIN, "tools"), chat)
    assert body["tools"][0] == {
        "type": "function",
        "function": {"name": "weather", "description": "tells it", "parameters": {"type": "object"}, "strict": True},
    }
    assert body.get("tool_choice") == expected
    assert body["parallel_tool_calls"] is False


def test_turns_with_calls_and_thinking_are_passed_on() -> None:
    call = ToolCall("c1", "clock", "{}")
    chat = Chat(
        (
            USER,
            Message(Role.ASSISTANT, "", thinking="hm", tool_calls=(call,)),
            Message(Role.TOOL, "12:00", tool_call_id="c1", tool_name="clock"),
        )
    )
    assert said(model(), chat)["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "12:00", "tool_call_id": "c1", "name": "clock"},
    ]


@pytest.mark.parametrize(
    ("think", "effort", "expected"),
    [(None, "", None), (False, "high", "none"), (True, "", "medium"), (True, "high", "high"), (None, "low", "low")],
)
def test_thinking_is_asked_for_by_effort(think: bool | None, effort: str, expected: str | None) -> None:
    chat = Chat((USER,), think=think, reasoning_effort=effort)
    assert said(model(PLAIN, "thinking"), chat).get("reasoning_effort") == expected


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (AnyJson(), {"response_format": {"type": "json_object"}}),
        (JsonSchema('{"type": "object"}'), {"response_format": {"type": "json_object"}}),
        (
            JsonSchema('{"type": "array"}'),
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "array"}, "strict": True},
                }
            },
        ),
        (Regex("a+"), {"structured_outputs": {"regex": "a+"}}),
        (Choice(("a", "b")), {"structured_outputs": {"choice": ["a", "b"]}}),
    ],
)
def test_the_form_of_the_answer_is_passed_on(constraint: Any, expected: dict[str, Any]) -> None:
    body = said(model(ABLE), constraint=constraint)
    assert {name: body[name] for name in expected} == expected


def test_plain_text_and_gaps_go_to_completions() -> None:
    request = GenerationRequest(RawText("once"), SamplingParams(logprobs=2, max_tokens=3))
    path, body = request_to(model(replace(PLAIN, max_tokens_field="max_completion_tokens")), request)
    assert (path, body["prompt"], body["logprobs"], body["max_tokens"]) == ("/completions", "once", 2, 3)
    body = said(model(PLAIN, "insert"), FillInMiddle("a", "b"))
    assert (body["prompt"], body["suffix"]) == ("a", "b")


# -- small parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_however_they_are_cut(size: int) -> None:
    stream = b': hello\n\nevent: x\ndata: {"a":1}\r\n\r\ndata:b\ndata: c\nid: 3\n\n\n\ndata: [DONE]'
    reader = EventReader()
    events = [data for at in range(0, len(stream), size) for data in reader.feed(stream[at : at + size])]
    assert [*events, *reader.finish()] == [b'{"a":1}', b"b\nc", b"[DONE]"]


def test_a_line_and_an_answer_have_a_limit() -> None:
    with pytest.raises(BadResponse, match="line"):
        EventReader().feed(b"data: " + b"x" * MAX_LINE)
    reader = EventReader()
    with pytest.raises(BadResponse, match="too long"):
        for _ in range(MAX_ANSWER // 1024 + 1):
            reader.feed(b": " + b"x" * 1021 + b"\n")


@pytest.mark.parametrize(
    ("said_", "expected"), [("3", 3.0), ("0.5", 0.5), ("99999999", 3600.0), ("-1", None), ("soon", None), ("", None)]
)
def test_a_pause_is_read_and_bounded(said_: str, expected: float | None) -> None:
    assert retry_after({"retry-after": said_}) == expected
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0


def test_shares_are_whole_and_make_the_total() -> None:
    assert shares(10, [1, 1, 2]) == [2, 3, 5]
    assert sum(shares(7, [3, 5, 11, 2])) == 7
