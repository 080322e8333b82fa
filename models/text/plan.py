"""How the answers to one request are read, and what they must keep to: decided once, for all of them."""

import json
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Self

from domain.errors import InvalidRequest
from domain.generation import GenerationRequest
from domain.prompt import Chat, chat_of
from domain.tools import Tool, ToolMode
from models.text.call_forms import CallForm, answer_of_calls, rest_of_call
from models.text.call_ids import call_ids
from models.text.decoding import StopStrings
from models.text.grammar import WHITESPACE, Grammar, Grammars, Wanted
from models.text.guidance import Form, Guide
from models.text.marks import THINK, THINK_END
from models.text.reading import AnswerReader, PartsReader, PlainReader
from models.text.reasoning import ThinkingReader
from models.text.tokenizer import TextTokenizer
from models.text.tools import CallReader
from models.text.turns import callable_tools


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What is compiled for a request; every answer gets its own reader and its own place in the forms."""

    request: GenerationRequest
    tokenizer: TextTokenizer
    tools: tuple[Tool, ...]
    form: Grammar | None
    call: Grammar | None
    thinks: bool
    is_thinking: bool

    @classmethod
    async def of(cls, request: GenerationRequest, ids: Ids[int], tokenizer: TextTokenizer, grammars: Grammars) -> Self:
        """The plan for `request`, whose prompt is `ids`. Raises InvalidRequest, Overloaded."""
        chat = chat_of(request.prompt)
        tools = () if chat is None else callable_tools(chat)
        form, call = _forms(request, chat, tools, tokenizer)
        return cls(
            request,
            tokenizer,
            tools,
            None if form is None else await grammars.compile(form),
            None if call is None else await grammars.compile(call),
            chat is not None and tokenizer.abilities.thinking and not chat.continue_final_message,
            tokenizer.opens_thinking(request.prompt, ids),
        )

    def reader(self, index: int, ends: frozenset[int]) -> tuple[AnswerReader, Form | None]:
        """How answer number `index` is read, and what it keeps to; `ends` are the tokens that end it."""
        form = None if self.form is None else self.form.fork()
        stops = self.request.sampling.stop
        may_stop = None if form is None else form.would_accept
        if not self.tools and not self.thinks:
            return PlainReader(self.tokenizer.stream(stops, may_stop)), form
        thinking = ThinkingReader(is_open=self.is_thinking) if self.thinks else None
        marks = [*((THINK, THINK_END) if self.thinks else ()), *(self.tokenizer.syntax.marks if self.tools else ())]
        reader = PartsReader(
            self.tokenizer.spelling_stream(marks), StopStrings(stops, may_stop), thinking, self._calls(index)
        )
        return reader, self._guide(reader, form, ends)

    def _calls(self, index: int) -> CallReader | None:
        if not self.tools:
            return None
        chat = chat_of(self.request.prompt)
        assert chat is not None
        is_required = chat.tool_choice.mode is ToolMode.REQUIRED
        return CallReader(
            self.tokenizer.syntax,
            {tool.name: json.loads(tool.parameters) for tool in self.tools},
            call_ids(self.request.sampling.seed, index),
            only_one=not chat.parallel_tool_calls,
            may_be_whole=is_required or self.request.constraint is None,
            is_all=is_required,
            is_strict=any(tool.strict for tool in self.tools),
        )

    def _guide(self, reader: PartsReader, form: Grammar | None, ends: frozenset[int]) -> Form | None:
        if form is None and self.call is None:
            return None
        chat = chat_of(self.request.prompt)
        may_think = self.thinks and chat is not None and chat.think is not False
        has_choice = form is not None and self.call is not None
        return Guide(
            reader,
            form=form,
            call=self.call,
            think_mark=self.tokenizer.id_of(THINK) if may_think else None,
            call_mark=self.tokenizer.id_of(self.tokenizer.syntax.first) if has_choice else None,
            gaps=self.tokenizer.singles("\n", "\n\n"),
            ends=ends,
        )


def _forms(
    request: GenerationRequest, chat: Chat | None, tools: Ids[Tool], tokenizer: TextTokenizer
) -> tuple[Wanted | None, CallForm | None]:
    """What the answer is as a whole, and what a call is that the model begins of its own accord.

    * Calls that are required are the whole answer: a constraint is about text, and there is none.
    * A constraint beside tools leaves the choice between the form and calls, told apart by the first token; a model
      whose calls begin with no such token cannot be given that choice.
    """
    if not tools or chat is None:
        return request.constraint, None
    syntax, several = tokenizer.syntax, chat.parallel_tool_calls
    if chat.tool_choice.mode is ToolMode.REQUIRED:
        return answer_of_calls(tools, syntax, tokenizer.id_of, WHITESPACE, several=several), None
    if request.constraint is None:
        return None, rest_of_call(tools, syntax, tokenizer.id_of, WHITESPACE)
    if tokenizer.id_of(syntax.first) is None:
        raise InvalidRequest(
            "this model cannot be held to a form and be free to call tools: its calls begin with no token of their "
            "own; leave out one of the two, or ask for calls with tool_choice",
            field="tools",
        )
    return request.constraint, answer_of_calls(
        tools, syntax, tokenizer.id_of, WHITESPACE, several=several, after_mark=True
    )
