"""The table of failures is total, and each dialect has its own shape of it."""

import asyncio
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
import orjson
import pytest

import api
import domain
from api import errors as transport
from api.error_shapes import Dialect, dialect_of, problem, render
from api.errors import STATUSES, InvalidFields, MethodNotAllowed, PayloadTooLarge, Problem, headers_of, statuses_of
from domain import errors
from domain.errors import IngleError
from tests.api.world import World


def import_all(package: Any) -> None:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def kinds(kind: type[IngleError]) -> Iterator[type[IngleError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from kinds(child)


EXAMPLES: dict[type[IngleError], IngleError] = {
    errors.ContextLengthExceeded: errors.ContextLengthExceeded(5000, 4096),
    errors.ModelNotFound: errors.ModelNotFound("x", ["y"]),
    errors.ModelBusy: errors.ModelBusy("x", 2),
    errors.DeviceNotAvailable: errors.DeviceNotAvailable("cuda", ["cpu"]),
    PayloadTooLarge: PayloadTooLarge(10),
    transport.InsufficientScope: transport.InsufficientScope(["jobs"]),
    MethodNotAllowed: MethodNotAllowed(["GET"]),
    InvalidFields: InvalidFields([Problem(("a", 0), "must be b")]),
}


def example(kind: type[IngleError]) -> IngleError:
    return EXAMPLES.get(kind) or kind()


import_all(domain)
import_all(api)
ALL = sorted(
    {kind for kind in kinds(IngleError) if kind.__module__.startswith(("domain.", "api."))}, key=lambda k: k.__name__
)


def test_every_failure_stands_in_the_table() -> None:
    assert set(ALL) == set(STATUSES)


@pytest.mark.parametrize("kind", ALL)
def test_every_failure_has_a_sensible_status_in_each_dialect(kind: type[IngleError]) -> None:
    statuses = STATUSES[kind]
    for status in (statuses.native, statuses.openai, statuses.ollama):
        assert 400 <= status <= 511
    # A dialect may call a client's mistake by another number, but never a mistake of ours.
    assert (statuses.native >= 499) == (statuses.openai >= 499) == (statuses.ollama >= 499)
    assert 422 not in (statuses.openai, statuses.ollama)


@pytest.mark.parametrize("kind", ALL)
def test_every_failure_can_be_rendered_in_every_shape(kind: type[IngleError]) -> None:
    for path in ("/generate", "/v1/chat/completions", "/api/chat", "/api/v1/jobs", "/v1/messages"):
        rendered = render(example(kind), path, "r-1")
        check_shape(dialect_of(path), rendered.headers, orjson.loads(rendered.body), rendered.status)
        if rendered.status in (429, 503):
            assert 1 <= int(rendered.headers["retry-after"]) <= 120
            assert rendered.headers["x-should-retry"] == "true"
        elif rendered.status >= 500:
            assert rendered.headers["x-should-retry"] == "false"


def check_shape(dialect: Dialect, headers: Mapping[str, str], body: dict[str, Any], status: int) -> None:
    if dialect is Dialect.NATIVE:
        assert headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail", "code", "request_id"} <= set(body)
        assert body["status"] == status
        return
    assert headers["content-type"] == "application/json"
    if dialect is Dialect.OPENAI:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
    elif dialect is Dialect.OLLAMA:
        assert set(body) == {"error"}
        assert isinstance(body["error"], str)
    else:
        assert body["type"] == "error"


def test_a_failure_that_another_room_invents_has_the_status_of_its_kind() -> None:
    class OddAudio(errors.AudioRefused):
        """Odd."""

    assert statuses_of(OddAudio()) == STATUSES[errors.AudioRefused]


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/", Dialect.NATIVE),
        ("/generate", Dialect.NATIVE),
        ("/v1/models", Dialect.OPENAI),
        ("/v1", Dialect.NATIVE),
        ("/v10/x", Dialect.NATIVE),
        ("/v1/systemone", Dialect.OLLAMA),
        ("/v1/messages", Dialect.ANTHROPIC),
        ("/v1/messages/count_tokens", Dialect.ANTHROPIC),
        ("/api/chat", Dialect.OLLAMA),
        ("/api/nothing", Dialect.OLLAMA),
        ("/api/v1/jobs", Dialect.NATIVE),
        ("/api/task/5", Dialect.NATIVE),
        ("/api/file/upload", Dialect.NATIVE),
        ("/api/files/ask", Dialect.NATIVE),
        ("/transcribe", Dialect.NATIVE),
    ],
)
def test_the_longest_prefix_decides_the_dialect(path: str, dialect: Dialect) -> None:
    assert dialect_of(path) is dialect


def test_figures_of_a_failure_are_members_of_its_document() -> None:
    body = problem(
        errors.InsufficientMemory("no", needed_bytes=5, available_bytes=3, detail="mine", path=object()), "r"
    )
    assert (body["needed_bytes"], body["available_bytes"], body["detail"]) == (5, 3, "no")
    assert "path" not in body
    assert problem(errors.ModelBusy("x", 2), "r")["in_flight"] == 2


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cannot open '/srv/a b/models/x.bin'", "cannot open 'x.bin'"),
        ("cannot open '/srv/models/x.bin' now", "cannot open 'x.bin' now"),
        ("/srv/models/x.bin: cut", "x.bin: cut"),
        ("see https://example.org/a/b/c", "see https://example.org/a/b/c"),
        ("text/plain and and/or", "text/plain and and/or"),
    ],
)
def test_directories_do_not_leave_the_process(said: str, shown: str) -> None:
    assert problem(errors.ModelLoadFailed(said), "r")["detail"] == shown


def test_the_texts_that_clients_of_ollama_compare() -> None:
    def text(error: Exception) -> str:
        body = orjson.loads(render(error, "/api/chat", "r").body)
        return str(body["error"])

    assert text(errors.ModelNotFound("x", ["y"])) == "model 'x' not found"
    assert text(errors.Overloaded()) == "server busy, please try again.  maximum pending requests exceeded"
    assert text(errors.RequestCancelled()) == "request canceled"
    assert text(errors.NotOffered("jobs")) == "not implemented"
    assert text(errors.ModelBusy("x", 2)) == "model 'x' is in use"
    assert text(errors.ContextLengthExceeded(9, 4)) == "the input length exceeds the context length"
    short = errors.InsufficientMemory("no room", needed_bytes=3 << 30, available_bytes=1 << 29)
    assert text(short) == "model requires more system memory (3.0 GiB) than is available (0.5 GiB)"
    assert text(transport.MissingBody()) == "missing request body"
    assert text(transport.RouteNotFound()) == "not found"


async def test_routes_and_methods_that_do_not_exist_have_the_dialects_shape(client: httpx2.AsyncClient) -> None:
    for path in ("/nothing", "/generate/", "/GENERATE", "/health/", "/models/x/y/z", "/api/v1/nothing", "/%ED%A0%80"):
        response = await client.get(path)
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert "location" not in response.headers
    assert set((await client.get("/v1/nothing")).json()["error"]) == {"message", "type", "param", "code"}
    assert (await client.get("/api/nothing")).json() == {"error": "not found"}
    for path, allowed in (("/generate", "POST"), ("/v1/chat/completions", "POST"), ("/api/chat", "POST")):
        response = await client.get(path)
        assert response.status_code == 405
        assert response.headers["allow"] == allowed
        assert response.headers["x-request-id"]


async def test_every_status_carries_request_id_and_server(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script("tiny:1b").text.error = RuntimeError("boom")
    answers = [
        await client.get("/health"),
        await client.get("/nothing"),
        await client.delete("/health"),
        await client.post("/generate", content=b"x" * (5 << 20)),
        await client.post("/generate", content=b""),
        await client.post("/generate", json={"prompt": "a"}),
        await client.post("/api/push"),
        await client.get("/health", headers={"host": "evil.example"}),
        await client.options(
            "/generate", headers={"origin": "http://localhost", "access-control-request-method": "POST"}
        ),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 413, 400, 500, 501, 403, 204]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert {answer.headers["server"] for answer in answers} == {"ingle/0.1.0"}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-1.2_X", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a b", False),
        ("a\tb", False),
        ("é", False),
    ],
)
async def test_a_well_formed_request_id_is_kept(client: httpx2.AsyncClient, given: str, kept: bool) -> None:
    response = await client.get("/health", headers={b"x-request-id": given.encode("latin-1")})
    assert (response.headers["x-request-id"] == given) is kept


async def test_two_requests_that_live_at_once_have_two_ids(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script("tiny:1b").text.before_first.shut()
    first = asyncio.create_task(client.post("/generate", json={"prompt": "a"}, headers={"x-request-id": "same"}))
    await gate.arrived()
    assert (await client.get("/health", headers={"x-request-id": "same"})).headers["x-request-id"] != "same"
    gate.open()
    assert (await first).headers["x-request-id"] == "same"
    assert (await client.get("/health", headers={"x-request-id": "same"})).headers["x-request-id"] == "same"


async def test_what_is_named_and_not_there_yet_is_501_in_the_shape_of_its_dialect(client: httpx2.AsyncClient) -> None:
    for method, path in (("POST", "/v1/responses"), ("POST", "/v1/files"), ("PUT", "/v1/images/x")):
        response = await client.request(method, path)
        assert response.status_code == 501
        assert response.json()["error"]["type"] == "not_supported_error"
        assert response.json()["error"]["code"] == "not_implemented"
    for method, path in (("POST", "/api/push"), ("POST", "/api/blobs/sha256:00")):
        response = await client.request(method, path)
        assert (response.status_code, response.json()) == (501, {"error": "not implemented"})
    for method, path in (
        ("POST", "/rerank"),
        ("GET", "/ui"),
    ):
        response = await client.request(method, path)
        assert (response.status_code, response.json()["code"]) == (501, "not_implemented")
    assert (await client.get("/api/me")).status_code == 404


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.Overloaded(retry_after_seconds=900), 30),
        (errors.Overloaded(retry_after_seconds=2.5), 3),
        (errors.QuotaExceeded(retry_after_seconds=40_000.2), 40_001),
        (errors.QuotaExceeded(), 1),
        (errors.DatabaseBusy(), 1),
    ],
)
def test_nobody_knows_when_load_will_end_but_when_a_day_does(error: IngleError, seconds: int) -> None:
    headers = headers_of(error, STATUSES[type(error)].native)
    assert seconds <= int(headers["retry-after"]) <= seconds + 2
    assert headers["retry-after-ms"] == headers["retry-after"] + "000"
