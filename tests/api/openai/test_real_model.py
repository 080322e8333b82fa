"""The whole way: the official client, a real `ingle serve`, and the weights of the smallest model."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests import needs

MODEL = "qwen2.5-coder:0.5b"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say the word hello and nothing else."}]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[OpenAI]:
    settings = {
        "INGLE_MODELS_DIR": str(needs.default_settings().models_dir),
        "INGLE_DATA_DIR": str(tmp_path),
        "INGLE_HTTP_PORT": "0",
        "INGLE_LOG_FORMAT": "json",
    }
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("INGLE_", "OLLAMA_"))}
    command = [sys.executable, "-m", "ingle", "serve"]
    with subprocess.Popen(command, env=environ | settings, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            records = map(orjson.loads, process.stdout)
            url = next(record["url"] for record in records if record["event"] == "serving")
            with OpenAI(base_url=f"{url}/v1", api_key="anything", _strict_response_validation=True) as client:
                yield client
        finally:
            process.kill()


@pytest.mark.weights(MODEL)
def test_a_greedy_stream_joins_to_the_answer_in_one_piece(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=12, seed=1
    )
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            max_completion_tokens=12,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    content = whole.choices[0].message.content
    assert content is not None
    assert "hello" in content.lower()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == content
    last = chunks[-1].usage
    assert whole.usage is not None and last is not None
    assert last.completion_tokens == whole.usage.completion_tokens
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}
    assert client.models.retrieve(MODEL).created > 0
    longer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_completion_tokens=24, extra_body={"ignore_eos": True}
    )
    assert longer.usage is not None
    assert (longer.usage.completion_tokens, longer.choices[0].finish_reason) == (24, "length")
    form = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_completion_tokens=40,
        n=2,
        seed=5,
        logprobs=True,
        top_logprobs=2,
        extra_body={"guided_regex": "(yes|no), [0-9]{3}"},
    )
    for choice in form.choices:
        assert re.fullmatch("(yes|no), [0-9]{3}", choice.message.content or "")
        assert choice.logprobs is not None and choice.logprobs.content
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in choice.logprobs.content)
