"""Finds the calls of tools in an answer, piece by piece, and leaves what only looks like one as text.

A family's calls are known by its marks. Small models, Qwen's coders above all, often leave the marks out, or put the
call between ``` fences: so an answer that is from its beginning to its end one or more such objects is calls too. All
of these must name a tool that may be called, with an object as arguments; whatever does not is text, marks included.
"""

import re
from enum import Enum, auto

from domain.tools import ToolCall
from models.text.call_body import NO_CALL, Body, Tools, XmlBody, body_of
from models.text.call_ids import NewId
from models.text.call_json import JsonEnd, calls_in
from models.text.decoding import overlap
from models.text.marks import MAX_CALLS, XML_FUNCTION, CallSyntax
from models.text.parts import Kind, Part, some, split_left, split_right

_FENCE = "```"
# Neither of these two may match more characters than are waited for before the answer is taken for text.
_FENCED = re.compile(r"```[ \t]{0,4}(?:json|tool_call)?[ \t]{0,4}\r?\n\s*")
_FENCE_LINE = 24
_FIRST_KEY = re.compile(r'\{\s{0,20}"(name|type|function|arguments|parameters)"')
_NAME_KEY = re.compile(r'\{\s{0,20}"name"')
_FIRST_KEY_LENGTH = 64
_NAME_FIRST = re.compile(r'\{\s{0,20}"name"\s{0,20}:\s{0,20}"([A-Za-z0-9_.\-]{1,128})"')
_BETWEEN = re.compile(r"[\s;,]*")


class _State(Enum):
    START = auto()
    WHOLE = auto()
    TEXT = auto()
    CALL = auto()
    AFTER = auto()


class CallReader:
    """Cuts text into TEXT, HIDDEN and CALL. With `only_one` it is `done` after the first call, else after MAX_CALLS.

    `may_be_whole` false says that an answer without marks is never a call; with `is_strict` one without marks must
    name its tool first, from where on it is held to the tool's schema. With `is_all` the answer is held to be calls:
    what is no call was cut short, and is hidden. So is white space around calls, but for that between a call and text
    that goes on after it.
    """

    def __init__(
        self,
        syntax: CallSyntax,
        tools: Tools,
        new_id: NewId,
        *,
        only_one: bool,
        may_be_whole: bool = True,
        is_strict: bool = False,
        is_all: bool = False,
    ) -> None:
        self._syntax = syntax
        self._tools = tools
        self._new_id = new_id
        self._only_one = only_one
        self._first_key = _NAME_KEY if is_strict else _FIRST_KEY
        self._state = _State.START if may_be_whole else _State.TEXT
        self._held = ""
        self._lead = ""
        self._json: JsonEnd | None = None
        self._body: Body | None = None
        self._begun = ""
        self._closings: list[str] = []
        self._found: list[tuple[str, str]] = []
        self._found_end = 0
        self._taken = 0
        self._text = Kind.HIDDEN if is_all else Kind.TEXT
        self._follows_call = False
        self._has_said = False
        self.done = False

    @property
    def begun_call(self) -> str | None:
        """What of a call was written so far, after its mark or its tool's name; None outside of calls."""
        if self._state is _State.CALL:
            return self._begun + self._held
        if self._state is not _State.WHOLE or self._json is None:
            return None
        named = _NAME_FIRST.match(self._held, self._json.start)
        return self._held[self._json.start :] if named and named[1] in self._tools else None

    def push(self, text: str) -> list[Part]:
        """The parts that `text` makes certain."""
        self._held += text
        return self._read(is_over=False)

    def flush(self) -> list[Part]:
        """What is left when the answer ends."""
        return self._read(is_over=True)

    def _read(self, *, is_over: bool) -> list[Part]:
        """Advance as far as what is held allows; a state that needs more text gives None."""
        parts: list[Part] = []
        while not self.done:
            more = self._advance(is_over=is_over)
            if more is None:
                break
            parts += more
        return parts

    def _advance(self, *, is_over: bool) -> list[Part] | None:
        match self._state:
            case _State.START:
                return self._begin(is_over=is_over)
            case _State.WHOLE:
                return self._read_whole(is_over=is_over)
            case _State.TEXT:
                return self._read_text(is_over=is_over)
            case _State.CALL:
                return self._read_call(is_over=is_over)
            case _State.AFTER:
                return self._read_after(is_over=is_over)

    # -- answers that are calls as a whole ----------------------------------------------------------------

    def _begin(self, *, is_over: bool) -> list[Part] | None:
        _, rest = split_left(self._held)
        fenced = _FENCED.match(rest)
        if fenced and rest[fenced.end() :]:
            rest = rest[fenced.end() :]
        elif fenced or not rest or _FENCE.startswith(rest) or _is_open_fence(rest):
            if not is_over:
                return None
            rest = ""
        if rest.startswith("{"):
            self._json = JsonEnd(len(self._held) - len(rest))
            self._state = _State.WHOLE
        else:
            self._state = _State.TEXT
        return []

    def _read_whole(self, *, is_over: bool) -> list[Part] | None:
        """The whole answer is held until it turns out to be calls or not."""
        if self._json is None:
            return self._read_between(is_over=is_over)
        start = self._json.start
        end = self._json.find(self._held)
        if end is None and len(self._held) - start <= _FIRST_KEY_LENGTH and not is_over:
            return None
        if not self._first_key.match(self._held, start):
            return self._no_call()
        if end is None:
            return self._no_call() if is_over else None
        calls = calls_in(self._held[start:end], self._tools)
        if not calls:
            return self._no_call()
        if self._only_one:
            return self._take(end, calls[:1])
        self._found += calls
        if len(self._found) >= MAX_CALLS:
            return self._take(end, self._found)
        self._json, self._found_end = None, end
        return []

    def _read_between(self, *, is_over: bool) -> list[Part] | None:
        """After an object: the end, the closing fence and the end, or the next object."""
        rest = self._held[self._found_end :].strip()
        fence = _FENCE if self._held.lstrip().startswith(_FENCE) else ""
        if is_over and rest in ("", fence):
            return self._take(len(self._held), self._found)
        between = _BETWEEN.match(self._held, self._found_end)
        start = between.end() if between else self._found_end
        if self._held.startswith("{", start):
            self._json = JsonEnd(start)
            return []
        could_go_on = start == len(self._held) or fence.startswith(rest)
        return None if could_go_on and not is_over else self._no_call()

    # -- calls behind a mark ------------------------------------------------------------------------------

    def _read_text(self, *, is_over: bool) -> list[Part] | None:
        found = self._find_opening()
        if found is not None:
            at, opening = found
            words, space = split_right(self._held[:at])
            words, outer = self._without_outer(words)
            self._lead = outer + space + opening
            self._held = self._held[at + len(opening) :]
            self._begin_call(opening)
            return self._said(words)
        if is_over:
            held, self._held = self._held, ""
            self.done = True
            words, space = split_right(held)
            said = self._said(words)
            return [*said, *some(Kind.HIDDEN if self._follows_call else self._text, space)]
        openings = (*self._openings(), self._syntax.outer[0])
        certain = len(self._held) - max(overlap(self._held, mark) for mark in openings)
        words, _ = self._without_outer(split_right(self._held[:certain])[0])
        self._held = self._held[len(words) :]
        return self._said(words) or None

    def _openings(self) -> tuple[str, ...]:
        """What a call may begin with; models leave out the mark around a function that has one of its own."""
        return (self._syntax.opening, XML_FUNCTION) if self._syntax.is_xml else (self._syntax.opening,)

    def _find_opening(self) -> tuple[int, str] | None:
        places = ((self._held.find(mark), mark) for mark in self._openings() if mark)
        return min(((at, mark) for at, mark in places if at >= 0), default=None)

    def _without_outer(self, words: str) -> tuple[str, str]:
        """What comes before the mark around all calls, and that mark with the white space before it."""
        mark = self._syntax.outer[0]
        if not mark or not words.endswith(mark):
            return words, ""
        said, space = split_right(words.removesuffix(mark))
        return said, space + mark

    def _begin_call(self, opening: str) -> None:
        self._state = _State.CALL
        self._begun = opening if opening == XML_FUNCTION else ""
        self._body = XmlBody(self._tools, is_open=True) if self._begun else body_of(self._syntax, self._tools)

    def _said(self, words: str) -> list[Part]:
        if not words:
            return []
        hides = self._follows_call and not self._has_said
        space, rest = split_left(words) if hides else ("", words)
        self._follows_call, self._has_said = False, True
        return [*some(Kind.HIDDEN, space), *some(self._text, rest)]

    def _read_call(self, *, is_over: bool) -> list[Part] | None:
        assert self._body is not None
        end = self._body.end(self._held)
        if end is None:
            return self._no_call() if is_over else None
        calls = [] if end == NO_CALL else self._body.calls(self._held[:end])
        if not calls:
            return self._no_call()
        self._held = self._lead + self._held
        return self._take(len(self._lead) + end, calls[:1] if self._only_one else calls)

    def _read_after(self, *, is_over: bool) -> list[Part] | None:
        space, rest = split_left(self._held)
        while self._closings:
            closing = self._closings[0]
            if not rest.startswith(closing) and closing.startswith(rest) and not is_over:
                return None
            del self._closings[0]
            if rest.startswith(closing):
                self._held = rest[len(closing) :]
                return [Part(Kind.HIDDEN, space + closing)]
        if self._is_joined:
            between = _BETWEEN.match(self._held)
            start = between.end() if between else 0
            if self._held.startswith("{", start):
                self._lead, self._held = self._held[:start], self._held[start:]
                self._begin_call("")
                return []
            if start == len(self._held) and not is_over:
                return None
        self._state = _State.TEXT
        return []

    @property
    def _is_joined(self) -> bool:
        """Whether one mark stands before several calls."""
        return bool(self._syntax.between.strip()) and not self._syntax.closing

    # -- what both share ----------------------------------------------------------------------------------

    def _take(self, length: int, calls: list[tuple[str, str]]) -> list[Part]:
        raw, self._held = self._held[:length], self._held[length:]
        self._lead = ""
        self._follows_call = True
        self._state = _State.AFTER
        marks = (self._syntax.closing.lstrip(), self._syntax.outer[1])
        self._closings = [mark for mark in marks if mark]
        self._taken += len(calls)
        self.done = self._only_one or self._taken >= MAX_CALLS
        return [Part(Kind.CALL, raw, tuple(ToolCall(self._new_id(), name, text) for name, text in calls))]

    def _no_call(self) -> list[Part]:
        """It is text after all: the mark at once, what comes after it may hold another one."""
        was_marked = self._state is _State.CALL
        self._state = _State.TEXT
        lead, self._lead = self._lead, ""
        if was_marked:
            self._follows_call, self._has_said = False, True
            return some(self._text, lead)
        return []


def _is_open_fence(rest: str) -> bool:
    return rest.startswith(_FENCE) and "\n" not in rest and len(rest) <= _FENCE_LINE
