"""A text model of an OpenAI-compatible provider."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NoReturn

from domain.embedding import EmbeddingInput, Embeddings
from domain.errors import DeadlineExceeded, UnsupportedCapability
from domain.generation import GenerationRequest, TextChunk, Timings
from domain.prompt import Prompt
from infrastructure.providers.chat_answer import Answers
from infrastructure.providers.chat_request import request_to
from infrastructure.providers.exchange import Call
from infrastructure.providers.remote_model import RemoteModel
from infrastructure.providers.work import DeadlinePassed


class ProvidedTextModel(RemoteModel):
    """Implements `application.ports.TextModel`, as far as the provider keeps to OpenAI's API.

    * What its API cannot say, or the provider is not known to honour, is refused by name before anything is sent.
    * Tokens are the provider's own business: `encode` and `decode` are refused, `Finish.context` is empty, the ids in
      log probabilities are UNKNOWN_TOKEN, and an answer that fills the context ends: `shift_keeping` is refused.
    * Its models for text make no vectors: those that do are listed as embedding models.
    * Raises what Connection does.
    """

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:  # noqa: ARG002
        """Refused: the tokens are the provider's."""
        self._refuse_tokens()

    async def decode(self, token_ids: Sequence[int]) -> str:  # noqa: ARG002
        """Refused: the tokens are the provider's."""
        self._refuse_tokens()

    @property
    def dimensions(self) -> int:
        """None: it makes no vectors."""
        return 0

    async def embed(
        self,
        texts: Sequence[EmbeddingInput],  # noqa: ARG002
        *,
        truncate: bool = True,  # noqa: ARG002
        dimensions: int | None = None,  # noqa: ARG002
        normalize: bool = True,  # noqa: ARG002
    ) -> Embeddings:
        """Refused."""
        raise UnsupportedCapability(f"{self._info.id} does not support embedding", field="model")

    def _refuse_tokens(self) -> NoReturn:
        raise UnsupportedCapability(
            f"model '{self._info.id}' lies with another server: its tokens are not known here", field="model"
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextChunk, None]:
        """Answer by asking the provider. Closing the generator closes the connection to it."""
        path, body = request_to(self._provided, request)
        total = self._provided.provider.patience.total
        seconds = total if request.timeout_seconds is None else min(total, request.timeout_seconds)
        answers, watch = Answers(request.n), _StopWatch()
        with self._calls.one_more(seconds) as work:
            call = Call(path, body, work, request.request_id)
            try:
                async with aclosing(self._connection.events(call)) as events:
                    async for event in events:
                        watch.began()
                        for chunk in answers.read(event):
                            yield chunk
            except DeadlinePassed:
                if not answers.have_begun:
                    raise DeadlineExceeded from None
                last = answers.cut(watch.timings())
            else:
                last = answers.end(watch.timings())
            for chunk in last:
                yield chunk


class _StopWatch:
    """When the answer was asked for and when it began: the provider's waiting and reading cannot be told apart."""

    def __init__(self) -> None:
        self._asked_at = asyncio.get_running_loop().time()
        self._began_at: float | None = None

    def began(self) -> None:
        """Note the time, if it is the first."""
        if self._began_at is None:
            self._began_at = asyncio.get_running_loop().time()

    def timings(self) -> Timings:
        """Up to now."""
        now = asyncio.get_running_loop().time()
        began_at = now if self._began_at is None else self._began_at
        return Timings(prompt=began_at - self._asked_at, decode=now - began_at)
