"""The grammar of calls in a family's own syntax: tools that may be called, with arguments by their schemas."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from domain.errors import InvalidRequest
from domain.tools import Tool
from models.text.call_xml import xml_arguments
from models.text.marks import MAX_CALLS, XML_END, XML_FUNCTION, CallSyntax, is_mark, pieces_of

IdOf = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class CallForm:
    """Calls as a grammar in Lark's notation; `schemas` are those of the arguments, by tool, as JSON text.

    With `is_strict` nothing in a schema may be beyond what can be enforced.
    """

    lark: str
    schemas: tuple[tuple[str, str], ...]
    is_strict: bool


def answer_of_calls(
    tools: Sequence[Tool], syntax: CallSyntax, id_of: IdOf, whitespace: str, *, several: bool, after_mark: bool = False
) -> CallForm:
    """An answer that is one call, or with `several` up to MAX_CALLS.

    With `after_mark` its first mark was written already.
    Raises InvalidRequest (field `tools`) for a schema that allows no object.
    """
    form = _Form(tools, syntax, id_of, whitespace, is_strict=True)
    first, further = form.call(with_opening=not after_mark), form.call(with_opening=True)
    between, more = json.dumps(syntax.between) if syntax.between else "", f"{{0,{MAX_CALLS - 1}}}"
    if syntax.is_list:
        opening = "" if after_mark else form.mark(syntax.opening)
        start = f'{opening} "[" object ({between} object){more} "]"' if several else f'{opening} "[" object "]"'
    elif syntax.outer[0]:
        opening, closing = "" if after_mark else form.mark(syntax.outer[0]), form.mark(syntax.outer[1])
        start = (
            f"{opening} {further} ({between} {further}){more} {closing}"
            if several
            else f"{opening} {further} {closing}"
        )
    elif syntax.closing or syntax.name_mark:
        start = f"{first} ({between} {further}){more}" if several else first
    else:
        # One mark, if the family has any and the vocabulary too, stands before all calls.
        start = f"object ({between} object){more}" if several else "object"
    return form.finished(start)


def rest_of_call(tools: Sequence[Tool], syntax: CallSyntax, id_of: IdOf, whitespace: str) -> CallForm:
    """What follows a mark that a model wrote of its own accord, to the end of the call's JSON.

    White space is as the model likes. A schema is enforced as far as it can be, and wholly if a tool is strict.
    """
    form = _Form(tools, syntax, id_of, whitespace, is_strict=any(tool.strict for tool in tools))
    start = "space? object"
    return form.finished(
        f'{start} | space? "[" object ("," space? object)* "]"' if syntax.is_list else start, is_free=True
    )


class _Form:
    def __init__(
        self, tools: Sequence[Tool], syntax: CallSyntax, id_of: IdOf, whitespace: str, *, is_strict: bool
    ) -> None:
        self._tools = tools
        self._syntax = syntax
        self._id_of = id_of
        self._options = {"lenient": not is_strict, "whitespace_pattern": whitespace}
        self._is_strict = is_strict

    def mark(self, text: str) -> str:
        """A mark as its one token, or else letter by letter; one that is put together of several, each by itself."""
        tokens = ((piece, self._id_of(piece) if is_mark(piece) else None) for piece in pieces_of(text))
        return " ".join(_literal(piece) if token is None else f"<[{token}]>" for piece, token in tokens)

    def call(self, *, with_opening: bool) -> str:
        """One call as the family was taught to write it."""
        syntax = self._syntax
        opening = self.mark(syntax.opening) if with_opening and syntax.opening else ""
        if not syntax.closing:
            return f"{opening} object"
        inner = _literal(syntax.inner) if syntax.inner else ""
        return f"{opening} {inner} object {inner} {self.mark(syntax.closing)}"

    def finished(self, start: str, *, is_free: bool = False) -> CallForm:
        """The grammar whose beginning is `start`; `is_free` lets white space be as the model likes."""
        schemas = [(tool.name, _schema_of(tool)) for tool in self._tools]
        rules = [f"start: {start}", "space: /[ \\t\\r\\n]{1,32}/", "object: " + " | ".join(self._names())]
        for rule, (name, schema) in zip(self._names(), schemas, strict=True):
            rules.append(f"{rule}: {self._object(name, rule, is_free=is_free)}")
            if self._syntax.is_xml:
                rules += xml_arguments(rule, schema, self._options, is_strict=self._is_strict)
            else:
                rules.append(f"{rule}_arguments: %json {json.dumps(schema | {'x-guidance': self._options})}")
        texts = tuple((name, json.dumps(schema)) for name, schema in schemas)
        return CallForm("\n".join(rules), texts, self._is_strict)

    def _names(self) -> list[str]:
        return [f"tool_{number}" for number in range(len(self._tools))]

    def _object(self, name: str, rule: str, *, is_free: bool) -> str:
        if self._syntax.is_xml:
            return f'{_literal(f"{XML_FUNCTION}{name}>")} "\\n" {rule}_arguments {_literal(XML_END)}'
        if self._syntax.name_mark:
            return f"{json.dumps(name)} {self.mark(self._syntax.name_mark)} {rule}_arguments"
        key = self._syntax.key
        if not is_free:
            before = f'{{"name": {json.dumps(name)}, "{key}": '
            return f'{json.dumps(before)} {rule}_arguments "}}"'
        pieces = [
            '"{"',
            _quoted("name"),
            '":"',
            _quoted(name),
            '","',
            f"({_quoted('arguments')} | {_quoted('parameters')})",
        ]
        return " space? ".join([*pieces, '":"', f"{rule}_arguments", '"}"'])


def _literal(text: str) -> str:
    """`text` as the grammar spells it."""
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """A JSON string as a literal of the grammar."""
    return json.dumps(json.dumps(text))


def _schema_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object whatever else it says."""
    schema: dict[str, Any] = json.loads(tool.parameters)
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise InvalidRequest(f"the parameters of the tool '{tool.name}' must be a schema of an object", field="tools")
    return {**schema, "type": "object"}
