"""Several choices, probabilities and constraints in /v1/chat/completions."""

from typing import Any

import httpx2
import pytest

from domain.constraint import Choice, Constraint, JsonSchema, Regex
from domain.errors import InvalidRequest
from tests.api.openai.frames import chunks_of, deltas_of, text_of
from tests.api.world import TEXT, World

URL = "/v1/chat/completions"


def body(**changes: Any) -> dict[str, Any]:
    return {"model": TEXT, "messages": [{"role": "user", "content": "one two three"}], **changes}


async def test_n_choices_share_one_prompt_and_sum_their_tokens(client: httpx2.AsyncClient) -> None:
    answer = (await client.post(URL, json=body(n=3))).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"one two three"}
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 9, 12)


async def test_each_choice_of_a_stream_has_one_role_and_one_finish(client: httpx2.AsyncClient) -> None:
    response = await client.post(URL, json=body(n=2, stream=True, stream_options={"include_usage": True}))
    *chunks, last = chunks_of(response)
    for index in (0, 1):
        role, *content, finish = deltas_of(chunks, index)
        assert (role, finish) == ({"role": "assistant", "content": ""}, {})
        assert all(set(delta) == {"content"} for delta in content)
        assert text_of(chunks, index) == "one two three"
        mine = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + ["stop"]
    assert last["usage"]["completion_tokens"] == 6


async def test_probabilities_are_told_of_every_token(client: httpx2.AsyncClient) -> None:
    (choice,) = (await client.post(URL, json=body(logprobs=True, top_logprobs=2))).json()["choices"]
    assert choice["logprobs"]["refusal"] is None
    first, second, third = choice["logprobs"]["content"]
    assert first == {
        "token": "one",
        "logprob": 0.0,
        "bytes": list(b"one"),
        "top_logprobs": [
            {"token": "one", "logprob": 0.0, "bytes": list(b"one")},
            {"token": "a", "logprob": -0.7, "bytes": list(b"a")},
        ],
    }
    assert (second["token"], third["token"]) == (" two", " three")
    chunks = chunks_of(await client.post(URL, json=body(logprobs=True, top_logprobs=2, stream=True)))
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert streamed[0] is streamed[-1] is None
    assert [token for part in streamed if part for token in part["content"]] == choice["logprobs"]["content"]


async def test_probabilities_without_alternatives(client: httpx2.AsyncClient) -> None:
    (choice,) = (await client.post(URL, json=body(logprobs=True))).json()["choices"]
    assert [token["top_logprobs"] for token in choice["logprobs"]["content"]] == [[], [], []]


async def test_the_fields_of_tokens_reach_the_model(world: World, client: httpx2.AsyncClient) -> None:
    changes = {
        "logit_bias": {"5": -100, "7": 0, "x": 0, "900": 2.5},
        "min_tokens": 2,
        "stop_token_ids": [4, 5],
        "typical_p": 0.5,
    }
    response = await client.post(URL, json=body(**changes))
    assert response.status_code == 200, response.text
    request = world.repository.text(TEXT).requests[0]
    assert request.sampling.logit_bias == ((5, -100.0), (900, 2.5))
    assert (request.sampling.min_tokens, request.sampling.stop_token_ids) == (2, (4, 5))
    assert (request.sampling.typical_p, request.n, request.client) == (0.5, 1, "127.0.0.1")


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {}}, None),
        ({"response_format": {"type": "json_object"}}, JsonSchema('{"type":"object"}')),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}}}},
            JsonSchema('{"type":"array"}'),
        ),
        ({"guided_json": {"type": "null"}}, JsonSchema('{"type":"null"}')),
        ({"guided_json": '{"type": "null"}'}, JsonSchema('{"type": "null"}')),
        ({"guided_regex": "[ab]+"}, Regex("[ab]+")),
        ({"guided_choice": ["yes", "no"]}, Choice(("yes", "no"))),
        ({"structured_outputs": {"choice": ["yes", "no"], "json": None}}, Choice(("yes", "no"))),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "text"}}, Regex("a")),
    ],
)
async def test_a_form_becomes_a_constraint(
    world: World, client: httpx2.AsyncClient, changes: dict[str, Any], constraint: Constraint | None
) -> None:
    response = await client.post(URL, json=body(**changes))
    assert response.status_code == 200, response.text
    assert world.repository.text(TEXT).requests[0].constraint == constraint


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logprobs": 1}, "logprobs", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias", "invalid_value"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "invalid_value"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "invalid_value"),
        ({"typical_p": 2}, "typical_p", "invalid_value"),
        ({"response_format": {}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "grammar"}}, "response_format.type", "unsupported_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
            "invalid_value",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": True}}},
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        ({"guided_json": 5}, "guided_json", "invalid_value"),
        ({"guided_choice": [""]}, "guided_choice", "invalid_value"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs", "unsupported_value"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "response_format", "invalid_value"),
        ({"guided_regex": ""}, "guided_regex", "invalid_value"),
    ],
)
async def test_a_form_that_cannot_be_had_is_refused(
    client: httpx2.AsyncClient, changes: dict[str, Any], param: str, code: str
) -> None:
    response = await client.post(URL, json=body(**changes))
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error


@pytest.mark.parametrize("is_stream", [True, False])
async def test_what_the_model_refuses_has_the_name_of_the_body(
    world: World, client: httpx2.AsyncClient, is_stream: bool
) -> None:
    world.repository.script(TEXT).text.error = InvalidRequest("the JSON schema does not compile", field="constraint")
    response = await client.post(URL, json=body(stream=is_stream, response_format={"type": "json_object"}))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format"
