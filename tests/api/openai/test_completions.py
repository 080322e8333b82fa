"""POST /v1/completions: prompts of four types, several answers to each, echoes, probabilities, the best of many."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from domain.errors import GenerationFailed, InvalidRequest, UnsupportedCapability
from domain.generation import GenerationRequest
from domain.preset import Preset
from domain.prompt import FillInMiddle, RawText, TokenIds
from tests.api.openai.frames import Json, chunks_of
from tests.api.world import EMBEDDING, SPEECH, TEXT, Served, World, until

URL = "/v1/completions"


def body(**changes: Any) -> dict[str, Any]:
    return {"model": TEXT, "prompt": "one two three", **changes}


async def answer_to(client: httpx2.AsyncClient, **changes: Any) -> Json:
    response = await client.post(URL, json=body(**changes))
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


def asked(world: World) -> list[GenerationRequest]:
    return world.repository.text(TEXT).requests


async def test_a_completion_has_every_key_of_the_format(client: httpx2.AsyncClient) -> None:
    answer = await answer_to(client, user="somebody")
    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("created") >= 1_800_000_000
    assert answer.pop("system_fingerprint").startswith("fp_ingle_")
    usage = answer.pop("usage")
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 3, 6)
    assert answer == {
        "object": "text_completion",
        "model": TEXT,
        "choices": [{"index": 0, "text": "one two three", "logprobs": None, "finish_reason": "stop"}],
    }


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a b", [RawText("a b")]),
        (["a", "b c"], [RawText("a"), RawText("b c")]),
        ([5, 6], [TokenIds((5, 6))]),
        ([[5], [6, 7]], [TokenIds((5,)), TokenIds((6, 7))]),
    ],
)
async def test_a_prompt_may_be_text_or_tokens_one_or_several(
    world: World, client: httpx2.AsyncClient, prompt: Any, expected: list[Any]
) -> None:
    answer = await answer_to(client, prompt=prompt)
    assert [request.prompt for request in asked(world)] == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))


async def test_choices_are_numbered_by_prompt_and_then_by_sample(world: World, client: httpx2.AsyncClient) -> None:
    answer = await answer_to(client, prompt=["a", "b c"], n=2)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "a"), (1, "a"), (2, "b c"), (3, "b c")
    ]  # fmt: skip
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 6)
    assert [request.n for request in asked(world)] == [2, 2]


async def test_several_prompts_run_at_once(world: World, server: Served) -> None:
    gate = world.repository.script(TEXT).text.before_first.shut()
    answer = asyncio.create_task(server.client.post(URL, json=body(prompt=["a", "b", "c"])))
    await gate.arrived(3)
    gate.open()
    assert [choice["text"] for choice in (await answer).json()["choices"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("changes", "limit"), [({}, 16), ({"max_tokens": 0}, 0), ({"max_tokens": 40}, 40), ({"max_tokens": None}, 16)]
)
async def test_sixteen_new_tokens_unless_the_request_says_so(
    world: World, client: httpx2.AsyncClient, changes: dict[str, Any], limit: int
) -> None:
    await answer_to(client, **changes)
    assert asked(world)[0].sampling.max_tokens == limit


async def test_a_made_models_limit_stands_before_the_default(world: World, client: httpx2.AsyncClient) -> None:
    spec = world.repository.specs[0]
    world.repository.specs[0] = replace(spec, preset=Preset(system="no", parameters=(("num_predict", 3),)))
    await answer_to(client)
    assert asked(world)[0].sampling.max_tokens == 3
    assert asked(world)[0].prompt == RawText("one two three")


async def test_the_fields_of_sampling_reach_the_model(world: World, client: httpx2.AsyncClient) -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "presence_penalty": 1, "frequency_penalty": -1}
    await answer_to(client, **fields, stop=["x"], logit_bias={"5": 2}, guided_choice=["a"], options={"num_ctx": 50})
    request = asked(world)[0]
    assert {name: getattr(request.sampling, name) for name in fields} == fields
    assert (request.sampling.stop, request.sampling.logit_bias, request.num_ctx) == (("x",), ((5, 2.0),), 50)
    assert request.constraint is not None


async def test_a_suffix_asks_for_the_middle_and_is_never_in_the_text(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.chunks = ["return"]
    answer = await answer_to(client, prompt="def f(): ", suffix=" 1")
    assert asked(world)[0].prompt == FillInMiddle("def f(): ", " 1")
    assert answer["choices"][0]["text"] == "return"
    world.repository.script(TEXT).text.error = UnsupportedCapability("it fills nothing in", field="suffix")
    error = (await client.post(URL, json=body(suffix="x"))).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_capability", "suffix")


async def test_an_echo_puts_the_prompt_before_the_answer(client: httpx2.AsyncClient) -> None:
    (choice,) = (await answer_to(client, echo=True))["choices"]
    assert choice["text"] == "one two threeone two three"
    (choice,) = (await answer_to(client, prompt=[5, 6], echo=True, max_tokens=0))["choices"]
    assert (choice["text"], choice["finish_reason"]) == (" 5 6", "length")


async def test_probabilities_are_four_lists_of_one_length(client: httpx2.AsyncClient) -> None:
    (choice,) = (await answer_to(client, logprobs=1))["choices"]
    assert choice["logprobs"] == {
        "tokens": ["one", " two", " three"],
        "token_logprobs": [0.0, 0.0, 0.0],
        "top_logprobs": [{"one": 0.0}, {" two": 0.0}, {" three": 0.0}],
        "text_offset": [0, 3, 7],
    }


async def test_an_echo_tells_the_probabilities_of_the_prompt(world: World, client: httpx2.AsyncClient) -> None:
    (choice,) = (await answer_to(client, echo=True, logprobs=2, max_tokens=1))["choices"]
    logprobs = choice["logprobs"]
    assert choice["text"] == "one two threeone"
    assert logprobs["tokens"] == ["one", " two", " three", "one"]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.5, 0.0]
    assert logprobs["text_offset"] == [0, 3, 7, 13]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["top_logprobs"][1] == {" two": -0.5, "a": 0.0, "b": -1.0}
    assert asked(world)[0].prompt_logprobs == 2
    await answer_to(client, echo=True)
    assert asked(world)[1].prompt_logprobs is None


async def test_offsets_count_characters_also_where_tokens_are_parts_of_them(
    world: World, client: httpx2.AsyncClient
) -> None:
    world.repository.script(TEXT).text.chunks = ["é", "🦜", "x"]
    (choice,) = (await answer_to(client, logprobs=0))["choices"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]


async def test_the_best_of_many_are_shown_and_all_are_counted(world: World, client: httpx2.AsyncClient) -> None:
    answer = await answer_to(client, n=2, best_of=5)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 15
    request = asked(world)[0]
    assert (request.n, request.sampling.logprobs) == (5, 0)
    assert {choice["logprobs"] for choice in answer["choices"]} == {None}


async def test_the_oldest_tokens_go_where_truncation_is_allowed(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post(URL, json=body(prompt=list(range(1, 31)), options={"num_ctx": 10}, truncate=True))
    assert response.status_code == 200, response.text
    assert response.headers["x-truncated"] == "true"
    assert asked(world)[-1].prompt == TokenIds((1, 2, 3, 4, 26, 27, 28, 29, 30))


# -- streams --------------------------------------------------------------------------------------------


def text_of(chunks: list[Json], index: int) -> str:
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index)


async def test_a_stream_of_several_choices_joins_to_the_answer_in_one_piece(client: httpx2.AsyncClient) -> None:
    wish = {"prompt": ["a b", "c"], "n": 2, "echo": True, "logprobs": 1}
    whole = await answer_to(client, **wish)
    response = await client.post(URL, json=body(**wish, stream=True, stream_options={"include_usage": True}))
    *chunks, last = chunks_of(response)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    for choice in whole["choices"]:
        mine = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        assert text_of(chunks, choice["index"]) == choice["text"]
        assert [one["finish_reason"] for one in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        for name, values in choice["logprobs"].items():
            assert [value for one in mine if one["logprobs"] for value in one["logprobs"][name]] == values


async def test_a_stream_that_fails_ends_with_the_error_and_no_end_mark(
    world: World, client: httpx2.AsyncClient
) -> None:
    script = world.repository.script(TEXT).text
    script.error, script.error_after = GenerationFailed("the step failed"), 1
    response = await client.post(URL, json=body(prompt=["a b", "c d"], stream=True))
    assert response.status_code == 200
    assert '"the step failed"' in response.text
    assert not response.text.endswith("[DONE]\n\n")


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_leaves_frees_the_places_of_all_prompts(
    world: World, server: Served, is_stream: bool
) -> None:
    gate = world.repository.script(TEXT).text.between.shut()
    _, writer = await server.connect()
    content = b'{"model":"tiny:1b","prompt":["a b","c d"],"stream":%s}' % (b"true" if is_stream else b"false")
    writer.write(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (URL.encode(), len(content)))
    writer.write(content)
    await gate.arrived(2)
    model = world.repository.text(TEXT)
    assert model.in_flight == 2
    writer.close()
    await until(lambda: not model.in_flight)
    assert model.closed == 2


# -- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt", "invalid_value"),
        ({"prompt": ["a", 5]}, "prompt", "invalid_value"),
        ({"prompt": [True]}, "prompt", "invalid_value"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 65}, "prompt", "invalid_value"),
        ({"prompt": ["a", ""]}, "prompt", "invalid_value"),
        ({"prompt": [1], "suffix": "x"}, "suffix", "invalid_value"),
        ({"suffix": "x", "echo": True}, "echo", "invalid_value"),
        ({"truncate": True, "echo": True}, "truncate", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"logprobs": True}, "logprobs", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"best_of": 9}, "best_of", "invalid_value"),
        ({"best_of": 1, "n": 2}, "best_of", "invalid_value"),
        ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"prompt_embeds": "AA=="}, "prompt_embeds", "unsupported_parameter"),
        ({"model": SPEECH}, "model", "unsupported_capability"),
        ({"model": EMBEDDING}, "model", "unsupported_capability"),
        ({"prompt": [99_999], "echo": True}, "prompt", "invalid_value"),
    ],
)
async def test_what_cannot_be_done_is_400_and_names_its_field(
    client: httpx2.AsyncClient, changes: dict[str, Any], param: str, code: str
) -> None:
    response = await client.post(URL, json=body(**changes))
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error


@pytest.mark.parametrize("is_stream", [True, False])
async def test_tokens_outside_the_vocabulary_are_refused_with_their_status(
    world: World, client: httpx2.AsyncClient, is_stream: bool
) -> None:
    world.repository.script(TEXT).text.error = InvalidRequest("prompt holds a token id outside", field="prompt")
    response = await client.post(URL, json=body(prompt=[[1], [2]], stream=is_stream))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
