"""A server under measurement, ours or a peer's: the same questions in the same order."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Self
from urllib.parse import urlsplit

import httpx2
import psutil

from benchmarks.distribution import percentile
from benchmarks.figures import Decoding, Figures, Waits, decoding_of, undisturbed_step, waits_of
from benchmarks.load import Body, LoadGenerator
from benchmarks.plan import Plan, Question, What
from benchmarks.prober import Prober
from benchmarks.prompts import Prompts
from benchmarks.streaming import RequestFailed

HEALTH_RATE = 20.0
# Answers that go on while others ask; they are left before their end.
_LONG_ANSWER = 512


class Endpoint:
    """An OpenAI-compatible server within a `with` block, a `Target`; where it serves fewer streams, it gets no more."""

    def __init__(
        self,
        name: str,
        base_url: str,
        plan: Plan,
        prompts: Prompts,
        model: str | None = None,
        *,
        quick: bool = False,
        max_streams: int = 16,
        health_url: str | None = None,
    ) -> None:
        """`base_url` ends with `/v1`; without `model` it is the first that the server lists."""
        self.name = name
        self.quick = quick
        self._url = base_url.rstrip("/")
        self._plan = plan
        self._prompts = prompts
        self._model = model
        self._max_streams = max_streams
        self._health_url = health_url
        self._load = LoadGenerator(self._url)

    def __enter__(self) -> Self:
        """Find the model. Raises httpx2.HTTPError."""
        if self._model is None:
            answer = httpx2.get(f"{self._url}/models", timeout=30.0)
            answer.raise_for_status()
            self._model = str(answer.json()["data"][0]["id"])
        self._load.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        """End the load generator's process."""
        self._load.__exit__(None, None, None)

    def takes(self, question: Question) -> bool:
        """Whether it serves so many streams, and has a `/health` that we know."""
        match question.what:
            case What.DECODING:
                return question.streams <= self._max_streams
            case What.BUSY:
                return self._plan.others <= self._max_streams
            case What.HEALTH:
                return self._health_url is not None
            case _:
                return True

    def measure(self, question: Question) -> Figures:
        """Only what was asked for. Raises RequestFailed."""
        match question.what:
            case What.DECODING:
                return Figures(decoding={question.streams: self._decoding(question.streams)})
            case What.PROMPT:
                return Figures(prompt=self._prompt_rate())
            case What.IDLE:
                return Figures(idle=self._idle())
            case What.BUSY:
                return Figures(busy=self._busy())
            case What.HEALTH:
                return Figures(health_p99=self._health())
            case What.MEMORY:
                return Figures(rss=_rss(self._url))

    def _decoding(self, streams: int) -> Decoding:
        return decoding_of(self._load.burst(self._streams(streams)))

    def _prompt_rate(self) -> float:
        """Tokens of a long prompt over the time to its first new token."""
        answer = self._load.burst([self._body(self._plan.long_prompt, 1)])[0]
        return (answer.prompt_tokens or self._plan.long_prompt) / answer.first

    def _idle(self) -> Waits:
        return waits_of(list(chain.from_iterable(self._load.burst([one]) for one in self._questions())))

    def _busy(self) -> Waits:
        others = [self._body(self._plan.prompt_tokens, _LONG_ANSWER) for _ in range(self._plan.others)]
        intrusion = self._load.intrude(others, self._questions())
        return waits_of(intrusion.answers, undisturbed_step(intrusion))

    def _health(self) -> float:
        assert self._health_url is not None
        with Prober(self._health_url, HEALTH_RATE) as prober:
            self._load.burst(self._streams(self._plan.others))
            probes = prober.stop()
        if not all(probe.ok for probe in probes):
            raise RequestFailed(f"{self._health_url} did not answer while {self._plan.others} streams decoded")
        return percentile(sorted(probe.seconds for probe in probes), 99)

    def _streams(self, count: int) -> Sequence[Body]:
        return [self._body(self._plan.prompt_tokens, self._plan.new_tokens) for _ in range(count)]

    def _questions(self) -> Sequence[Body]:
        return [self._body(self._plan.question_tokens, 1) for _ in range(self._plan.questions)]

    def _body(self, prompt_tokens: int, max_tokens: int) -> Body:
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": self._prompts.make(prompt_tokens)}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }


def counter(base_url: str, model: str) -> Callable[[str], int]:
    """How many tokens a server finds in a prompt, with its template. Raises httpx2.HTTPError when called."""

    def count(text: str) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
        answer = httpx2.post(f"{base_url}/chat/completions", json=body, timeout=30.0)
        answer.raise_for_status()
        return int(answer.json()["usage"]["prompt_tokens"])

    return count


def _rss(base_url: str) -> int | None:
    """Resident memory of whoever listens there and of its children; None where that is another machine or user."""
    parts = urlsplit(base_url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and parts.port in tuple(connection.laddr)
        if listens and connection.pid:
            process = psutil.Process(connection.pid)
            return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    return None
