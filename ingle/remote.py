"""A running Ingle server, as the command line uses it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import httpx2
from pydantic import SecretStr

from ingle.settings import Settings

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to reach a server that listens everywhere


def address_of(settings: Settings) -> str:
    """The base URL at which `ingle serve` listens under these settings."""
    host = _ANYWHERE.get(settings.http_host, settings.http_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}"


class RemoteFailed(click.ClickException):
    """The server refused, or there is none."""


class Server:
    """One server over HTTP, to which `key` is shown. Every method raises RemoteFailed with what the server said."""

    def __init__(self, url: str, *, key: SecretStr | None = None, timeout: float = 660.0) -> None:
        self._url = url.rstrip("/")
        # Answers may take as long as the server lets a generation run; connecting may not.
        # A proxy for the internet is no way to a machine of one's own.
        timeouts = httpx2.Timeout(timeout, connect=5.0)
        headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
        self._client = httpx2.Client(base_url=self._url, timeout=timeouts, trust_env=False, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def health(self) -> str:
        """What `/healthz` says when it is well."""
        with self._failures():
            response = self._client.get("/healthz")
            self._check(response)
        return str(response.json()["status"])

    def generate(self, body: Mapping[str, object]) -> Iterator[Mapping[str, Any]]:
        """The records of a streamed `/generate`."""
        with self._failures(), self._client.stream("POST", "/generate", json={**body, "stream": True}) as response:
            self._check(response)
            for line in response.iter_lines():
                record = json.loads(line)
                if "error" in record or "code" in record:
                    raise RemoteFailed(str(record.get("detail") or record.get("error")))
                yield record

    def transcribe(self, audio: Path, options: Mapping[str, str]) -> str:
        """The body with which `/transcribe` answers for the file `audio`, in the format that `options` name."""
        with self._failures(), audio.open("rb") as file:
            response = self._client.post("/transcribe", data=options, files={"file": (audio.name, file)})
            self._check(response)
        return response.text

    def transcribe_url(self, url: str, options: Mapping[str, str]) -> str:
        """The same of what lies at `url`, which the server fetches itself."""
        with self._failures():
            response = self._client.post("/transcribe/url", params={**options, "url": url})
            self._check(response)
        return response.text

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """The JSON object that answers a request."""
        with self._failures():
            response = self._client.request(method, path, json=body, params=parameters)
            self._check(response)
        answer: Mapping[str, Any] = response.json()
        return answer

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectError:
            raise RemoteFailed(f"no server answers at {self._url}: start one with `ingle serve`") from None
        except httpx2.TimeoutException:
            raise RemoteFailed(f"{self._url} did not answer in time") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RemoteFailed(f"{self._url}: {error}") from None

    def _check(self, response: httpx2.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            said = response.json()["detail"]
            if response.status_code == 401:
                said = f"{said} Set INGLE_API_KEY."
        except (ValueError, KeyError, TypeError):
            said = f"answered {response.status_code}: is it an Ingle server?"
        raise RemoteFailed(f"{self._url}: {said}")
