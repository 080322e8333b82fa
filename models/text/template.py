"""Chat templates: a model's own Jinja program, run in a sandbox on the messages of a chat."""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from threading import local
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from domain.errors import InvalidRequest

MAX_SECONDS = 5.0
MAX_CHARACTERS = 64 << 20


class ChatTemplate:
    """One template, compiled; safe to use from several threads. It may run for `seconds` and write `characters`."""

    def __init__(self, source: str, *, seconds: float = MAX_SECONDS, characters: int = MAX_CHARACTERS) -> None:
        self._characters = characters
        self._environment = _Sandbox(seconds, characters)
        try:
            self._template = self._environment.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise InvalidRequest(f"the model's chat template cannot be read: {error}", field="messages") from None

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text that the template makes of `variables`.

        Raises InvalidRequest (field `messages`) if the template refuses them, fails, or takes too long.
        """
        self._environment.start()
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(**variables):
                pieces.append(piece)
                size += len(piece)
                if size > self._characters:
                    raise SecurityError(f"it writes more than {self._characters} characters")
        except TemplateError as error:
            raise InvalidRequest(f"the model's chat template refused the messages: {error}", field="messages") from None
        except Exception as error:  # whatever a foreign program can run into
            raise InvalidRequest(
                f"the model's chat template failed on these messages: {type(error).__name__}", field="messages"
            ) from error
        return "".join(pieces)


class _Generation(Extension):
    """`{% generation %}`, by which templates for training mark what the assistant says; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class _Sandbox(ImmutableSandboxedEnvironment):
    """What transformers gives a template, and a limit of time: it is looked at with every call and attribute."""

    intercepted_binops = frozenset(("*", "**"))

    def __init__(self, seconds: float, characters: int) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self._run = local()
        self._seconds = seconds
        self._characters = characters
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = _now

    def start(self) -> None:
        """A rendering begins on this thread."""
        self._run.deadline = time.monotonic() + self._seconds

    def _tick(self) -> None:
        if time.monotonic() > getattr(self._run, "deadline", float("inf")):
            raise SecurityError(f"it runs for more than {self._seconds:g} seconds")

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._tick()
        return super().getattr(obj, attribute)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._tick()
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._tick()
        size = max((len(side) for side in (left, right) if isinstance(side, str | list | tuple)), default=0)
        times = max((abs(side) for side in (left, right) if isinstance(side, int | float)), default=0)
        if size * times > self._characters or (operator == "**" and times > 1024):
            raise SecurityError(f"it multiplies beyond {self._characters} characters")
        return super().call_binop(context, operator, left, right)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)
