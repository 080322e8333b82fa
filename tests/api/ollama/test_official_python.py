"""The official `ollama` client for Python, a real `ingle serve`, and the weights of small models."""

import json
import math
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, cast

import httpx2
import pytest
from ollama import Client, ResponseError

from tests.api.real_server import EMBEDDING, HUB_FILES, HUB_MODEL, MODEL

GREEDY = {"temperature": 0, "num_predict": 12}
QUESTION = [{"role": "user", "content": "Say the word hello and nothing else."}]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "celsius": {"type": "boolean"}},
    "required": ["city", "celsius"],
    "additionalProperties": False,
}

pytestmark = pytest.mark.weights(MODEL, EMBEDDING)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = Client(host=url)
    yield client
    client._client.close()


def test_a_greedy_stream_joins_to_the_answer_in_one_piece(client: Client) -> None:
    answer = client.chat(MODEL, QUESTION, options=GREEDY, tools=[])
    *pieces, last = client.chat(MODEL, QUESTION, options=GREEDY, stream=True)
    assert "hello" in (answer.message.content or "").lower()
    assert "".join(piece.message.content or "" for piece in pieces) == answer.message.content
    assert (last.done, last.done_reason) == (True, "stop")
    figures = (last.total_duration, last.load_duration, last.prompt_eval_count, last.prompt_eval_duration)
    assert all(figure is not None and figure > 0 for figure in (*figures, last.eval_count, last.eval_duration))


def test_generate_goes_on_from_its_context(client: Client) -> None:
    first = client.generate(MODEL, "My name is Ada. Say hi.", options=GREEDY)
    assert first.context
    second = client.generate(MODEL, "What is my name?", context=first.context, options=GREEDY)
    assert "Ada" in (second.response or "")
    *pieces, last = client.generate(MODEL, "Count: 1, 2,", raw=True, options=GREEDY, stream=True)
    assert "3" in "".join(piece.response or "" for piece in pieces)
    assert (last.done_reason, last.context) == ("length", None)


def test_a_hole_is_filled(client: Client) -> None:
    answer = client.generate(MODEL, "def add(a, b):\n    return ", suffix="\n\nprint(add(1, 2))\n", options=GREEDY)
    assert "a + b" in (answer.response or "")


def test_a_schema_is_obeyed(client: Client) -> None:
    ask = [{"role": "user", "content": "Name a city."}]
    answer = client.chat(MODEL, ask, format=CITY, options={"temperature": 0, "num_predict": 60})
    assert set(json.loads(answer.message.content or "")) == {"city", "celsius"}


def test_logprobs_are_told(client: Client) -> None:
    answer = client.generate(MODEL, "Hi", options={"num_predict": 3}, logprobs=True, top_logprobs=2)
    assert answer.logprobs is not None
    assert all(token.logprob <= 0 and len(token.top_logprobs or ()) == 2 for token in answer.logprobs)


def test_a_tool_is_called_and_its_result_read(client: Client) -> None:
    def weather(city: str) -> str:
        """The weather in a city.

        Args:
          city: name of the city
        """
        return f"It is 11 degrees in {city}."

    ask: list[Any] = [{"role": "user", "content": "What is the weather in Lisbon?"}]
    options = {"temperature": 0, "num_predict": 60}
    message = client.chat(MODEL, ask, tools=[weather], options=options).message
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.function.name == "weather"
    assert "Lisb" in call.function.arguments["city"]
    ask += [message, {"role": "tool", "tool_name": "weather", "content": weather(**call.function.arguments)}]
    ask.append({"role": "user", "content": "How many degrees is it? Answer with the number."})
    answer = client.chat(MODEL, ask, options=options)
    assert "11" in (answer.message.content or "")


def test_vectors_have_length_1_and_meaning(client: Client) -> None:
    answer = client.embed(EMBEDDING, ["a cat", "a kitten", "tax law"])
    cat, kitten, law = answer.embeddings
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-4) for vector in (cat, kitten, law))
    assert math.sumprod(cat, kitten) > math.sumprod(cat, law) if hasattr(math, "sumprod") else True
    assert len(client.embed(EMBEDDING, "a cat", dimensions=8).embeddings[0]) == 8
    assert len(client.embeddings(EMBEDDING, "a cat").embedding) == len(cat)


def test_models_are_listed_shown_and_seen_in_memory(client: Client) -> None:
    listed = {model.model: model for model in client.list().models}
    assert {MODEL, f"{EMBEDDING}:latest"} <= set(listed)
    assert all(model.modified_at is not None and model.digest for model in listed.values())
    shown = client.show(MODEL)
    assert shown.modelinfo is not None and shown.capabilities is not None and shown.details is not None
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] > 0
    assert {"completion", "tools", "insert"} <= set(shown.capabilities)
    client.generate(MODEL, keep_alive="10m")
    running = {model.model: model for model in client.ps().models}
    assert running[MODEL].expires_at is not None
    assert running[MODEL].context_length
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    assert MODEL not in {model.model for model in client.ps().models}


def test_a_pull_tells_its_progress_and_what_is_here_is_a_success(client: Client) -> None:
    assert client.pull(MODEL).status == "success"
    records = list(client.pull(HUB_MODEL, stream=True))
    assert (records[0].status, records[-1].status) == ("pulling manifest", "success")
    sums: dict[str, list[int]] = {}
    for record in records:
        if record.digest is not None and record.total:
            sums.setdefault(record.digest, []).append(record.completed or 0)
            if record.total == len(HUB_FILES["model.safetensors"]):
                largest = record.digest
    assert all(told == sorted(told) for told in sums.values())
    assert sums[largest][-1] == len(HUB_FILES["model.safetensors"])
    assert client.delete(HUB_MODEL).status == "success"


def test_models_are_made_copied_and_deleted(url: str, client: Client) -> None:
    statuses = [
        record.status
        for record in client.create(
            "pirate", from_=MODEL, system="Answer with the word arr.", parameters={"temperature": 0}, stream=True
        )
    ]
    assert statuses[-1] == "success"
    assert "temperature" in (client.show("pirate").parameters or "")
    body = {"model": "pirate", "messages": QUESTION, "_debug_render_only": True}
    rendered = httpx2.post(f"{url}/api/chat", json=body, timeout=60, trust_env=False).json()["_debug_info"]
    assert "Answer with the word arr.<|im_end|>" in rendered["rendered_template"]
    assert client.copy("pirate", "corsair").status == "success"
    assert {"pirate:latest", "corsair:latest"} <= {model.model for model in client.list().models}
    client.generate("pirate", keep_alive=0)
    assert client.delete("pirate").status == client.delete("corsair").status == "success"


def test_errors_are_the_clients_own(client: Client) -> None:
    for ask in (lambda: client.chat("nobody", QUESTION), lambda: client.show("nobody")):
        with pytest.raises(ResponseError, match="model 'nobody' not found") as caught:
            ask()
        assert caught.value.status_code == 404
    with pytest.raises(ResponseError, match="file does not exist"):
        list(client.pull("nobody", stream=True))
    with pytest.raises(ResponseError, match="not support chat"):
        client.chat(EMBEDDING, QUESTION)
    with pytest.raises(ResponseError, match='option "num_ctx" must be of type integer'):
        client.chat(MODEL, QUESTION, options={"num_ctx": "many"})


def test_leaving_a_stream_frees_its_place(url: str, client: Client) -> None:
    ask = [{"role": "user", "content": "Count to one thousand."}]
    with closing(
        cast(Generator[Any, None, None], client.chat(MODEL, ask, options={"num_predict": 2000}, stream=True))
    ) as stream:
        next(stream)
    models = httpx2.get(f"{url}/models/{MODEL}", trust_env=False)
    for _ in range(200):
        if models.json()["in_flight"] == 0:
            break
        models = httpx2.get(f"{url}/models/{MODEL}", trust_env=False)
    assert models.json()["in_flight"] == 0
