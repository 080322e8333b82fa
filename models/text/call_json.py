"""Calls as JSON: where such a value ends in text that is still coming, and which calls it stands for."""

import json
import re
from collections.abc import Container
from typing import Any, NoReturn

_STEP = re.compile(r'[\[\]{}"]')
_IN_STRING = re.compile(r'["\\]')


class JsonEnd:
    """Follows brackets and strings from a bracket at `start` on; looks at each character once."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._at = start
        self._depth = 0
        self._in_string = False

    def find(self, text: str) -> int | None:
        """Where the value ends in `text`, which is all that was given before and more; None while it does not."""
        while self._at < len(text):
            match = (_IN_STRING if self._in_string else _STEP).search(text, self._at)
            if match is None:
                self._at = len(text)
                return None
            mark = match[0]
            if mark == "\\":
                if match.end() == len(text):
                    self._at = match.start()
                    return None
                self._at = match.end() + 1
                continue
            self._at = match.end()
            if mark == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if mark in "[{" else -1
                if self._depth == 0:
                    return self._at
        return None


def calls_in(text: str, names: Container[str], name: str | None = None) -> list[tuple[str, str]]:
    """The names and arguments of the calls that `text` is; none unless every one is of `names` and whole.

    With `name` the text is the arguments of a call of that tool.
    """
    try:
        value = json_value(text)
    except ValueError:
        return []
    if name is not None:
        value = {"name": name, "arguments": value}
    calls = [_call_in(item, names) for item in (value if isinstance(value, list) else [value])]
    good = [call for call in calls if call is not None]
    return good if len(good) == len(calls) else []


def json_value(text: str) -> Any:
    """What `text` is in JSON. Raises ValueError if it is none."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def arguments_text(arguments: dict[str, Any]) -> str:
    """Arguments as JSON; half of a surrogate pair, which JSON can spell and no text can hold, is replaced."""
    text = json.dumps(arguments, ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _call_in(value: Any, names: Container[str]) -> tuple[str, str] | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
    if arguments is None and value.keys() <= {"name", "type", "id"}:
        arguments = {}
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return name, arguments_text(arguments)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
