"""Constraints as token masks, by llguidance: which tokens may come next so that the answer gets its form."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from domain.constraint import AnyJson, Choice, Constraint, JsonSchema, Regex
from domain.errors import GenerationFailed, InvalidRequest, Overloaded
from models.text.call_forms import CallForm
from models.text.tokenizer import TextTokenizer

COMPILE_SECONDS = 2.0
# Of compiled constraints: how many are kept. Each may grow to some tens of megabytes, by the limits below.
_KEPT = 16
_MAX_REASON = 500
# Between two parts of a JSON text; without a bound a model may write nothing else until its last token.
WHITESPACE = r"[ \t\n\r]{1,32}"
# What a step may cost the others, and a constraint the machine: a lexer of this fuel takes about 50 ms to build.
_LIMITS = LLParserLimits(initial_lexer_fuel=100_000, max_lexer_states=20_000, verbose_errors=False)


Wanted = Constraint | CallForm


class Grammar:
    """Where one answer stands in its constraint. Copies share what was compiled; none knows of another's answer."""

    def __init__(self, vocabulary: LLTokenizer, start: LLMatcher, forget: Callable[[], None]) -> None:
        self._vocabulary = vocabulary
        self._start = start
        self._forget = forget
        self._matcher = start.deep_copy()

    def fork(self) -> "Grammar":
        """The same constraint, for an answer that has not begun."""
        return Grammar(self._vocabulary, self._start, self._forget)

    @property
    def accepting(self) -> bool:
        """Whether the answer has its form as it stands."""
        return self._matcher.is_accepting()

    @property
    def finished(self) -> bool:
        """Whether the answer has its form and nothing may follow."""
        return self._matcher.is_stopped() and self._matcher.is_accepting()

    def mask(self, size: int) -> torch.Tensor:
        """`[size]` bool: the tokens that may come next, the end tokens among them only where the answer may end.

        Raises GenerationFailed if the constraint turns out to be too complex to follow.
        """
        bits = _bits(self._matcher)
        self._check()
        allowed = torch.zeros(size, dtype=torch.bool)
        count = min(size, self._vocabulary.vocab_size)
        allowed[:count] = torch.from_numpy(bits[:count]).bool()
        return allowed

    def consume(self, token: int) -> None:
        """The answer goes on with `token`. Raises GenerationFailed if that is not allowed."""
        self._matcher.consume_token(token)
        self._check()

    def follow(self) -> None:
        """Nothing that is read changes what may come next."""

    def consume_text(self, text: str) -> None:
        """The answer goes on with `text`. Raises GenerationFailed if that is not allowed."""
        if not self.try_text(text):
            raise GenerationFailed("the constraint could not be followed: the thinking ended in the middle of a token")

    def try_text(self, text: str) -> bool:
        """Go on with `text` if it is allowed; if not, this one is of no more use."""
        return bool(self._matcher.consume_tokens(self._vocabulary.greedy_tokenize(text)))

    def would_accept(self, text: str) -> bool:
        """Whether `text` as a whole answer has the form."""
        matcher = self._start.deep_copy()
        return matcher.consume_tokens(self._vocabulary.greedy_tokenize(text)) and matcher.is_accepting()

    def _check(self) -> None:
        if self._matcher.is_error():
            # What was compiled is shared, and so are its limits: whoever asks next shall have it fresh.
            self._forget()
            raise GenerationFailed(f"the constraint could not be followed: {_reason(self._matcher)}")


class Grammars:
    """Compiles constraints for one tokenizer, on a thread of its own; called on the event loop.

    The vocabulary is read when the first constraint comes, which takes a second for a large one.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[Wanted, Grammar] = OrderedDict()
        self._compiler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")

    async def compile(self, constraint: Wanted) -> Grammar:
        """The grammar of `constraint`, at its start.

        Raises InvalidRequest (field `constraint`, or `tools` for calls) with the compiler's reason; Overloaded if
        others' constraints keep the compiler busy.
        """
        grammar = self._compiled.get(constraint)
        if grammar is None:
            if self._vocabulary is None:
                await asyncio.wrap_future(self._compiler.submit(self._read_vocabulary))
            grammar = await self._compile_in_time(constraint)
            self._compiled[constraint] = grammar
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(constraint)
        return grammar.fork()

    def close(self) -> None:
        """Give the compiled constraints back; what is being compiled is finished and thrown away."""
        self._compiler.shutdown(wait=False, cancel_futures=True)
        self._compiled.clear()
        self._vocabulary = None

    async def _compile_in_time(self, constraint: Wanted) -> Grammar:
        job = self._compiler.submit(self._compile, constraint)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job), COMPILE_SECONDS)
        except TimeoutError:
            if job.cancelled():
                raise Overloaded("the server is busy: other constraints are being compiled") from None
            raise _refusal(f"it takes more than {COMPILE_SECONDS:g} seconds to compile", constraint) from None

    def _read_vocabulary(self) -> None:
        if self._vocabulary is None:
            self._vocabulary = LLTokenizer(self._tokenizer.to_json(), eos_token=list(self._tokenizer.settings.end_ids))

    def _compile(self, constraint: Wanted) -> Grammar:
        assert self._vocabulary is not None
        matcher = LLMatcher(self._vocabulary, _source_of(constraint), log_level=0, limits=_LIMITS)
        self._try(matcher, constraint)
        if matcher.is_accepting() and isinstance(constraint, AnyJson | JsonSchema):
            raise _refusal("no JSON value can have this form", constraint)
        if isinstance(constraint, CallForm):
            self._try_arguments(constraint)
        return Grammar(self._vocabulary, matcher, lambda: self._drop(constraint))

    def _try_arguments(self, form: CallForm) -> None:
        """Schemas stand in the middle of calls, where no first mask shows what is wrong with them."""
        assert self._vocabulary is not None
        for name, schema in form.schemas:
            source = _of_schema(schema, form, lenient=not form.is_strict)
            matcher = LLMatcher(self._vocabulary, source, log_level=0, limits=_LIMITS)
            try:
                self._try(matcher, form)
                if matcher.is_accepting():
                    raise _refusal("no object can have this form", form)
            except InvalidRequest as error:
                raise InvalidRequest(f"the parameters of the tool '{name}': {error}", field="tools") from None

    def _try(self, matcher: LLMatcher, constraint: Wanted) -> None:
        """Find the first mask, and one token on: a lexer that is too large shows there, and not in a step.

        Raises InvalidRequest with the reason if there is no such mask.
        """
        allowed = _bits(matcher)
        tokens = (int(token) for token in np.flatnonzero(allowed))
        first = next((token for token in tokens if token not in self._tokenizer.settings.end_ids), None)
        if matcher.is_error():
            raise _refusal(_reason(matcher), constraint)
        if first is None:
            return
        ahead = matcher.deep_copy()
        ahead.consume_token(first)
        ahead.compute_bitmask()
        if ahead.is_error():
            raise _refusal(_reason(ahead), constraint)

    def _drop(self, constraint: Wanted) -> None:
        # From the owner thread; one operation on the dictionary, so no lock.
        self._compiled.pop(constraint, None)


def _source_of(constraint: Wanted) -> str:
    match constraint:
        case AnyJson():
            return _of_schema("{}", constraint)
        case JsonSchema(schema):
            return _of_schema(schema, constraint)
        case CallForm(lark):
            return LLMatcher.grammar_from_lark(lark)
        case Regex(pattern):
            return LLMatcher.grammar_from_regex(pattern)
        case Choice(options):
            texts = " | ".join(json.dumps(option, ensure_ascii=False) for option in options)
            return LLMatcher.grammar_from_lark(f"start: {texts}")


def _of_schema(schema: str, wanted: Wanted, *, lenient: bool = False) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(
            schema, overrides={"lenient": lenient, "whitespace_pattern": WHITESPACE}
        )
    except ValueError as error:
        raise _refusal(str(error), wanted) from None


def _bits(matcher: LLMatcher) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """One number a token, 1 where it may come next; at least as many as the vocabulary has."""
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")


def _reason(matcher: LLMatcher) -> str:
    reason = matcher.get_error().replace("<non-verbose/>", "").strip()[:_MAX_REASON]
    return "no text can have this form" if reason.startswith("NoExtension") else reason


def _refusal(reason: str, wanted: Wanted) -> InvalidRequest:
    what, field = ("calls", "tools") if isinstance(wanted, CallForm) else ("constraint", "constraint")
    return InvalidRequest(f"the {what} cannot be enforced: {reason}", field=field)
