"""From a request to sequences that may wait: whatever can be refused about it is refused here."""

import asyncio
import hashlib
import itertools
from collections.abc import Sequence as Ids
from dataclasses import replace

from domain.errors import ContextLengthExceeded, InvalidRequest
from domain.generation import WHOLE_PROMPT, GenerationRequest, SamplingParams
from domain.prompt import Chat, Continuation, FillInMiddle, Prompt, RawText, TokenIds
from models.text.answer import Answer, Stream
from models.text.grammar import Grammars
from models.text.lookup import Lookup
from models.text.plan import AnswerPlan
from models.text.prompt_scores import PromptScores
from models.text.sampler import is_plain_greedy
from models.text.sequence import Sequence
from models.text.shown_logprobs import HeldLogprobs, PromptTelling
from models.text.tokenizer import TextTokenizer

# An answer that shifts at full contexts ends when it has written so many of them.
_MAX_SHIFTED_CONTEXTS = 10
# Below this many characters a prompt is encoded on the event loop: a thread would cost more.
_ENCODE_INLINE = 2048


class Intake:
    """Checks requests against the model, and makes their answers. Used on the event loop."""

    def __init__(self, tokenizer: TextTokenizer, context_length: int, *, guesses: bool = False) -> None:
        """With `guesses` answers that are greedy and nothing else may have guesses checked."""
        self._tokenizer = tokenizer
        self._guesses = guesses
        self._context_length = context_length
        self._grammars = Grammars(tokenizer)
        self._numbers = itertools.count()

    async def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt; a long one is encoded in a thread."""
        if _characters(prompt) <= _ENCODE_INLINE:
            return self._tokenizer.encode(prompt)
        return await asyncio.to_thread(self._tokenizer.encode, prompt)

    async def decode(self, token_ids: Ids[int]) -> str:
        """The text of ids, control tokens spelled out; many are decoded in a thread."""
        self._tokenizer.check_vocabulary(token_ids, "tokens")
        if len(token_ids) <= _ENCODE_INLINE:
            return self._tokenizer.spell(token_ids)
        return await asyncio.to_thread(self._tokenizer.spell, token_ids)

    async def open(self, request: GenerationRequest, arrival: float) -> Stream:
        """A stream whose answers are all still to begin.

        Raises InvalidRequest, ContextLengthExceeded, UnsupportedCapability, Overloaded.
        """
        ids = await self.encode(request.prompt)
        if not ids:
            raise InvalidRequest("the prompt is empty after tokenising", field="prompt")
        context = min(request.num_ctx or self._context_length, self._context_length)
        if len(ids) >= context:
            raise ContextLengthExceeded(len(ids), context)
        self._check_vocabulary(request.sampling)
        plan = await AnswerPlan.of(request, ids, self._tokenizer, self._grammars)
        stream = Stream(asyncio.get_running_loop(), arrival, len(ids), unfinished=request.n)
        for index in range(request.n):
            sequence = self._sequence(request, list(ids), arrival, index, context, has_form=plan.form is not None)
            reader, form = plan.reader(index, sequence.stop_ids)
            if self._guesses and form is None and is_plain_greedy(sequence):
                sequence.lookup = Lookup()
            logprobs = None if request.sampling.logprobs is None else HeldLogprobs(self._tokenizer)
            stream.siblings.append(Answer(index, stream, sequence, reader, form, logprobs))
        if request.prompt_logprobs is not None:
            stream.prompt = PromptTelling(self._tokenizer, stream.siblings[0].sequence, ids)
        return stream

    def bound(self, context_length: int) -> None:
        """Let contexts be of so many tokens from now on."""
        self._context_length = context_length

    def close(self) -> None:
        """Give the compiled constraints back."""
        self._grammars.close()

    def _sequence(
        self, request: GenerationRequest, ids: list[int], arrival: float, index: int, context: int, *, has_form: bool
    ) -> Sequence:
        params = request.sampling
        if params.seed is not None:
            params = replace(params, seed=_seed_of(params.seed, index))
        room = context - len(ids)
        if request.shift_keeping is not None:
            room = _MAX_SHIFTED_CONTEXTS * context
        max_new_tokens = room if params.max_tokens is None else min(room, params.max_tokens)
        stop_ids = set(params.stop_token_ids)
        min_new_tokens = params.min_tokens
        if has_form and params.ignore_eos:
            # The form has an end: it comes as late as the form allows.
            min_new_tokens = max_new_tokens
        if has_form or not params.ignore_eos:
            stop_ids.update(self._tokenizer.settings.end_ids)
            if isinstance(request.prompt, FillInMiddle) and self._tokenizer.fill_in is not None:
                stop_ids.update(self._tokenizer.fill_in.end_ids)
        scores = None
        if request.prompt_logprobs is not None and index == 0:
            # One answer has the prompt read for all.
            scores = PromptScores(len(ids), request.prompt_logprobs)
        return Sequence(
            id=next(self._numbers),
            ids=ids,
            params=params,
            max_new_tokens=max_new_tokens,
            stop_ids=frozenset(stop_ids),
            arrival=arrival,
            deadline=None if request.timeout_seconds is None else arrival + request.timeout_seconds,
            client=request.client,
            priority=request.priority,
            min_new_tokens=min_new_tokens,
            context=context,
            keeping=len(ids) if request.shift_keeping == WHOLE_PROMPT else request.shift_keeping,
            scores=scores,
        )

    def _check_vocabulary(self, params: SamplingParams) -> None:
        size = self._tokenizer.vocabulary_size
        for field, tokens in (
            ("stop_token_ids", params.stop_token_ids),
            ("logit_bias", [token for token, _ in params.logit_bias]),
        ):
            if outside := [token for token in tokens if token >= size]:
                raise InvalidRequest(
                    f"{field} names token {outside[0]}, and the model's vocabulary has {size} tokens", field=field
                )


def _seed_of(seed: int, index: int) -> int:
    """The first answer has the request's own seed, so that it is what a request for one answer gets."""
    if index == 0:
        return seed
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def _characters(prompt: Prompt) -> int:
    match prompt:
        case RawText(text):
            return len(text)
        case Continuation(token_ids, then):
            return len(token_ids) + _characters(then)
        case TokenIds(ids):
            return len(ids)
        case FillInMiddle(before, after):
            return len(before) + len(after)
        case Chat(messages):
            return sum(len(message.content) for message in messages)
