"""A server under measurement, ours or a peer's: the same questions in the same order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Self
from urllib.parse import urlsplit

import httpx2
import psutil

from benchmarks.distribution import percentile
from benchmarks.figures import Decoding, Figures, decoding_of, undisturbed_step, waits_of
from benchmarks.load import Body, LoadGenerator
from benchmarks.prober import Prober
from benchmarks.prompts import Prompts
from benchmarks.streaming import RequestFailed

HEALTH_RATE = 20.0
# Answers that go on while others ask; they are left before their end.
_LONG_ANSWER = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured in each round; lengths in tokens, template included."""

    rounds: int
    streams: tuple[int, ...]
    questions: int
    prompt_tokens: int = 130
    new_tokens: int = 64
    question_tokens: int = 100
    long_prompt: int = 1000
    others: int = 8


class Target:
    """An OpenAI-compatible server within a `with` block; a peer that serves fewer streams is asked for no more."""

    def __init__(self, name: str, base_url: str, model: str | None = None, *, max_streams: int = 16) -> None:
        """`base_url` ends with `/v1`; without `model` it is the first that the server lists."""
        self.name = name
        self._url = base_url.rstrip("/")
        self._model = model
        self._max_streams = max_streams
        self._load = LoadGenerator(self._url)

    def __enter__(self) -> Self:
        """Find the model. Raises httpx2.HTTPError, RequestFailed."""
        if self._model is None:
            answer = httpx2.get(f"{self._url}/models", timeout=30.0)
            answer.raise_for_status()
            self._model = str(answer.json()["data"][0]["id"])
        self._load.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        """End the load generator's process."""
        self._load.__exit__(None, None, None)

    def count(self, text: str) -> int:
        """How many tokens a prompt has, with its template."""
        tokens = self._load.burst([self._body(text, 1)])[0].prompt_tokens
        if tokens is None:
            raise RequestFailed(f"{self.name} does not count tokens")
        return tokens

    def measure(self, plan: Plan, prompts: Prompts, *, health_url: str | None = None) -> Figures:
        """One round. Raises RequestFailed."""
        self._load.burst([self._body(prompts.make(plan.prompt_tokens), 8)])
        decoding = {count: self._decoding(plan, prompts, count) for count in plan.streams if count <= self._max_streams}
        questions = [self._body(prompts.make(plan.question_tokens), 1) for _ in range(2 * plan.questions)]
        idle = waits_of(list(chain.from_iterable(self._load.burst([one]) for one in questions[: plan.questions])))
        busy = None
        if plan.others <= self._max_streams:
            others = [self._body(prompts.make(plan.prompt_tokens), _LONG_ANSWER) for _ in range(plan.others)]
            intrusion = self._load.intrude(others, questions[plan.questions :])
            busy = waits_of(intrusion.answers, undisturbed_step(intrusion))
        return Figures(
            prompt=self._prompt_rate(plan, prompts),
            decoding=decoding,
            idle=idle,
            busy=busy,
            health_p99=None if health_url is None else self._health(plan, prompts, health_url),
            rss=_rss(self._url),
        )

    def _prompt_rate(self, plan: Plan, prompts: Prompts) -> float:
        """Tokens of a long prompt over the time to its first new token."""
        rates = []
        for _ in range(2):
            answer = self._load.burst([self._body(prompts.make(plan.long_prompt), 1)])[0]
            rates.append((answer.prompt_tokens or plan.long_prompt) / answer.first)
        return median(rates)

    def _decoding(self, plan: Plan, prompts: Prompts, streams: int) -> Decoding:
        return decoding_of(self._load.burst(self._streams(plan, prompts, streams)))

    def _health(self, plan: Plan, prompts: Prompts, url: str) -> float:
        with Prober(url, HEALTH_RATE) as prober:
            self._load.burst(self._streams(plan, prompts, plan.others))
            probes = prober.stop()
        if not all(probe.ok for probe in probes):
            raise RequestFailed(f"{url} did not answer while {plan.others} streams decoded")
        return percentile(sorted(probe.seconds for probe in probes), 99)

    def _streams(self, plan: Plan, prompts: Prompts, count: int) -> Sequence[Body]:
        return [self._body(prompts.make(plan.prompt_tokens), plan.new_tokens) for _ in range(count)]

    def _body(self, prompt: str, max_tokens: int) -> Body:
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }


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
