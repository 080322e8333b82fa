"""What stands between the marks of a call: where it ends, and which calls it is."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from models.text.call_json import JsonEnd, arguments_text, calls_in
from models.text.call_xml import xml_values
from models.text.marks import XML_END, XML_FUNCTION, XML_PARAMETER, XML_PARAMETER_END, CallSyntax
from models.text.parts import split_left

# The schemas of the arguments of tools that may be called, by name.
Tools = Mapping[str, Mapping[str, Any]]
NO_CALL = -1

_NAMED = re.compile(r"\s*([A-Za-z0-9_.\-]{1,128})(?:\[CALL_ID\]\w{1,40})?\s*")
_NAMED_LENGTH = 256
_XML_NAME = re.compile(r"([A-Za-z0-9_.\-]{1,128})>")
_XML_KEY = re.compile(r"([^<>\n]{1,256})>")
_XML_KEY_LENGTH = 257


class Body(Protocol):
    """One call's text as it comes; it looks at each character once or twice."""

    def end(self, text: str) -> int | None:
        """Where the call ends in `text`, all since the mark; None while it does not, NO_CALL if it is none."""
        ...

    def calls(self, text: str) -> list[tuple[str, str]]:
        """Names and arguments of the calls that `text`, which ends where `end` said, is; none if it is wrong."""
        ...


def body_of(syntax: CallSyntax, tools: Tools) -> Body:
    """A body in the family's own way."""
    return XmlBody(tools) if syntax.is_xml else JsonBody(syntax, tools)


class JsonBody:
    """A call, or with `is_list` an array of them, as JSON; or a name, its mark, and the arguments as JSON."""

    def __init__(self, syntax: CallSyntax, tools: Tools) -> None:
        self._syntax = syntax
        self._tools = tools
        self._json: JsonEnd | None = None

    def end(self, text: str) -> int | None:
        """Where the JSON ends."""
        if self._json is None:
            start = self._start(text)
            if start is None or start == NO_CALL:
                return start
            self._json = JsonEnd(start)
        return self._json.find(text)

    def calls(self, text: str) -> list[tuple[str, str]]:
        """None unless every one of them names a tool."""
        assert self._json is not None
        name = None
        if self._syntax.name_mark:
            named = _NAMED.match(text[: self._json.start])
            name = named[1] if named else ""
        return calls_in(text[self._json.start :], self._tools, name)

    def _start(self, text: str) -> int | None:
        after = 0
        if mark := self._syntax.name_mark:
            at = text.find(mark, 0, _NAMED_LENGTH)
            if at < 0:
                return None if len(text) < _NAMED_LENGTH else NO_CALL
            if not _NAMED.fullmatch(text, 0, at):
                return NO_CALL
            after = at + len(mark)
        space, rest = split_left(text[after:])
        if not rest:
            return None
        wanted = "[{" if self._syntax.is_list else "{"
        return after + len(space) if rest[0] in wanted else NO_CALL


class XmlBody:
    """`<function=NAME>`, `<parameter=KEY>` value `</parameter>` for each argument, `</function>`.

    A value is text as it stands, but for a line break at its beginning and the one at its end that belongs to it.
    """

    def __init__(self, tools: Tools, *, is_open: bool = False) -> None:
        """With `is_open` the text begins after `<function=`."""
        self._tools = tools
        self._opening = "" if is_open else XML_FUNCTION
        self._at = 0
        self._name: str | None = None
        self._key: str | None = None
        self._seen = 0
        self._values: dict[str, str] = {}

    def end(self, text: str) -> int | None:
        """Where the function's own end mark ends."""
        while True:
            if self._key is not None:
                if not self._read_value(text):
                    return None
                continue
            start = self._at + len(split_left(text[self._at :])[0])
            if self._name is not None and text.startswith(XML_END, start):
                return start + len(XML_END)
            mark, pattern, longest = (
                (self._opening, _XML_NAME, _NAMED_LENGTH)
                if self._name is None
                else (XML_PARAMETER, _XML_KEY, _XML_KEY_LENGTH)
            )
            rest = text[start : start + len(mark) + longest]
            if not rest.startswith(mark):
                could_come = mark.startswith(rest) or (self._name is not None and XML_END.startswith(rest))
                return None if could_come else NO_CALL
            named = pattern.match(rest, len(mark))
            if named is None:
                return None if ">" not in rest and len(rest) < len(mark) + longest else NO_CALL
            self._at = self._seen = start + named.end()
            if self._name is None:
                self._name = named[1]
            else:
                self._key = named[1]

    def calls(self, text: str) -> list[tuple[str, str]]:  # noqa: ARG002 - `end` has read it
        """None if no such tool may be called."""
        if self._name is None or self._name not in self._tools:
            return []
        return [(self._name, arguments_text(xml_values(self._values, self._tools[self._name])))]

    def _read_value(self, text: str) -> bool:
        """Whether the value of the key under way has come to its end."""
        has_line = text.startswith("\n", self._at)
        mark = "\n" + XML_PARAMETER_END if has_line else XML_PARAMETER_END
        at = text.find(mark, max(self._at, self._seen - len(mark)))
        self._seen = len(text)
        if at < 0 or self._key is None:
            return False
        self._values[self._key] = text[min(at, self._at + has_line) : at]
        self._at, self._key = at + len(mark), None
        return True
