"""Requests that somebody else may cancel: to their routes it looks as if the client had left, but it gets an answer."""

import asyncio
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.request_ids import request_id_of
from domain.errors import RequestCancelled


@dataclass(slots=True)
class _Live:
    """A request that is being answered; `caller` is None until it is known who sent it."""

    wish: asyncio.Event = field(default_factory=asyncio.Event)
    caller: str | None = None


class Cancellations:
    """The requests that are being answered, by their ids: whose they are, and the wish to end one."""

    def __init__(self) -> None:
        self._live: dict[str, _Live] = {}

    def cancel(self, request_id: str) -> bool:
        """End the request of that id; False if there is none."""
        live = self._live.get(request_id)
        if live is None:
            return False
        live.wish.set()
        return True

    def enter(self, request_id: str) -> asyncio.Event:
        """A request has come in; the event is set when it is to end."""
        live = self._live[request_id] = _Live()
        return live.wish

    def belongs(self, request_id: str, caller: str) -> None:
        """The request of that id was sent with the key named `caller`."""
        self._live[request_id].caller = caller

    def is_of(self, request_id: str, caller: str) -> bool:
        """Whether that key sent the request of that id."""
        live = self._live.get(request_id)
        return live is not None and live.caller == caller

    def leave(self, request_id: str) -> None:
        """It is answered."""
        del self._live[request_id]


class Cancellable:
    """Makes `receive` raise RequestCancelled in a request that is cancelled."""

    def __init__(self, app: ASGIApp, cancellations: Cancellations) -> None:
        self._app = app
        self._cancellations = cancellations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        wish = self._cancellations.enter(request_id)
        has_ended = False

        async def cancellable_receive() -> Message:
            nonlocal has_ended
            if wish.is_set():
                raise RequestCancelled()
            if has_ended:
                # All that can come now is that the client leaves, which may take as long as the answer.
                return await _unless_set(wish, receive)
            message = await receive()
            has_ended = not message.get("more_body", False)
            return message

        try:
            await self._app(scope, cancellable_receive, send)
        finally:
            self._cancellations.leave(request_id)


async def _unless_set(wish: asyncio.Event, receive: Receive) -> Message:
    receiving = asyncio.ensure_future(receive())
    wishing = asyncio.ensure_future(wish.wait())
    try:
        await asyncio.wait({receiving, wishing}, return_when=asyncio.FIRST_COMPLETED)
        if wish.is_set():
            raise RequestCancelled()
        return receiving.result()
    finally:
        receiving.cancel()
        wishing.cancel()
