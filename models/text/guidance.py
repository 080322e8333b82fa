"""What an answer must keep to, and from where on: forms begin where thinking ends, calls where a mark was written."""

from enum import Enum, auto
from typing import Protocol

import torch

from models.text.grammar import Grammar
from models.text.reading import PartsReader

_MAX_GAPS = 2


class Form(Protocol):
    """What one answer keeps to, as the sampler and the answer see it."""

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the answer is over because nothing may follow."""
        ...

    def mask(self, size: int) -> torch.Tensor | None:
        """`[size]` bool: the tokens that may come next; None for all of them."""
        ...

    def consume(self, token: int) -> None:
        """The answer goes on with `token`. Raises GenerationFailed if that is not allowed."""
        ...

    def follow(self) -> None:
        """The token's text was read: look what it began or ended."""
        ...


class _Phase(Enum):
    THINKING = auto()
    START = auto()
    FORM = auto()
    TEXT = auto()
    CALL = auto()


class Guide:
    """A form for an answer that may think first, may call tools of its own accord, or both.

    * `form` is what the answer is when the thinking is over; None leaves it free.
    * `call` is how what follows a mark of calls must go on. Beside a form, the mark `call_mark` may stand in its
      place, and `call` is then all the rest of the answer.
    * `think_mark` lets a model begin to think before its form. While it thinks before a form it may not end.
    * A few tokens of `gaps` may stand between thinking and form; they belong to neither.
    """

    def __init__(
        self,
        reader: PartsReader,
        *,
        form: Grammar | None,
        call: Grammar | None,
        think_mark: int | None = None,
        call_mark: int | None = None,
        gaps: frozenset[int] = frozenset(),
        ends: frozenset[int] = frozenset(),
    ) -> None:
        self._reader = reader
        self._form = form
        self._call = call
        self._think_mark = think_mark
        self._call_mark = call_mark
        self._gaps = gaps
        self._ends = ends
        self._gaps_left = 0
        self._is_unguided = False
        self._active: Grammar | None = None
        self._phase = _Phase.THINKING if reader.is_thinking else self._after_thinking()

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here: not in a thought before a form, nor in a call."""
        match self._phase:
            case _Phase.THINKING:
                return self._form is None
            case _Phase.START:
                return self._form is not None and self._form.accepting
            case _Phase.TEXT:
                return True
            case _:
                return self._active is not None and self._active.accepting

    @property
    def finished(self) -> bool:
        """Whether the form, or the calls in its place, are written to their end."""
        return self._form is not None and self._active is not None and self._active.finished

    def mask(self, size: int) -> torch.Tensor | None:
        """`[size]` bool: the tokens that may come next; None for all of them."""
        match self._phase:
            case _Phase.TEXT:
                return None
            case _Phase.THINKING:
                return None if self._form is None else self._all_but_ends(size)
            case _Phase.START:
                assert self._form is not None
                allowed = self._form.mask(size)
                allowed[[token for token in self._openers() if token < size]] = True
                return allowed
            case _:
                assert self._active is not None
                return self._active.mask(size)

    def consume(self, token: int) -> None:
        """The answer goes on with `token`. Raises GenerationFailed if that is not allowed."""
        if self._phase is _Phase.START:
            self._begin(token)
        elif self._active is not None:
            self._active.consume(token)

    def follow(self) -> None:
        """The token's text was read: a thought may be over by it, a call begun or over."""
        match self._phase:
            case _Phase.THINKING if not self._reader.is_thinking:
                self._end_thinking()
            case _Phase.TEXT:
                self._look_for_call()
            case _Phase.CALL if self._form is None and self._begun_call() is None:
                self._active = None
                self._phase = _Phase.TEXT
            case _:
                pass

    def _after_thinking(self) -> _Phase:
        return _Phase.TEXT if self._form is None else _Phase.START

    def _openers(self) -> list[int]:
        """What may stand at the beginning besides the form."""
        thinking = self._reader.thinking
        marks = [] if self._call_mark is None else [self._call_mark]
        if self._think_mark is not None and thinking is not None and thinking.is_undecided:
            marks.append(self._think_mark)
        return marks + (sorted(self._gaps) if self._gaps_left else [])

    def _begin(self, token: int) -> None:
        assert self._form is not None
        if self._gaps_left and token in self._gaps:
            self._gaps_left -= 1
        elif token == self._think_mark and token in self._openers():
            self._phase = _Phase.THINKING
        elif token == self._call_mark and self._call is not None:
            self._active, self._phase = self._call.fork(), _Phase.CALL
        else:
            self._active, self._phase = self._form, _Phase.FORM
            self._active.consume(token)

    def _end_thinking(self) -> None:
        self._phase = self._after_thinking()
        self._gaps_left = _MAX_GAPS
        if self._form is not None and self._reader.said:
            # The token that ended the thinking held the first words of the answer too.
            self._active, self._phase = self._form, _Phase.FORM
            self._active.consume_text(self._reader.said)

    def _look_for_call(self) -> None:
        begun = self._begun_call()
        if begun is None or self._call is None:
            self._is_unguided = False
        elif not self._is_unguided:
            call = self._call.fork()
            # With the mark the same token may have brought what no call goes on with: then it is read as it comes.
            self._is_unguided = bool(begun) and not call.try_text(begun)
            if not self._is_unguided:
                self._active, self._phase = call, _Phase.CALL

    def _begun_call(self) -> str | None:
        return None if self._reader.calls is None else self._reader.calls.begun_call

    def _all_but_ends(self, size: int) -> torch.Tensor:
        allowed = torch.ones(size, dtype=torch.bool)
        allowed[[token for token in self._ends if token < size]] = False
        return allowed
