"""Answer a question from passages: the analysis form of /generate, as a use case."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from application.generate_text import GenerateText, Generation
from domain.generation import GenerationRequest, SamplingParams
from domain.prompt import Chat, Message, Prompt, Role

DEFAULT_CONTEXT_TEMPLATE = "Context:\n{context}\n\nQuery: {query}\n\nAnswer:"

_PLACEHOLDER = re.compile(r"\{(context|query)\}")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and of what. `system` None leaves the model's own system text.

    `truncate` allows to drop passages from the end until the prompt fits; without it a prompt that does not
    fit raises ContextLengthExceeded. `keep_alive` is in seconds; `client` says whose turn it is.
    """

    query: str
    passages: tuple[str, ...] = ()
    system: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    truncate: bool = False
    timeout_seconds: float | None = None
    keep_alive: float | None = None
    request_id: str = ""
    client: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said; `passages_used` of the question's passages, from its start, were in the prompt."""

    generation: Generation
    passages_used: int


class AnswerQuery:
    """Fill the template, keep what fits, generate."""

    def __init__(self, generate: GenerateText, template: str = DEFAULT_CONTEXT_TEMPLATE) -> None:
        """`template` must hold `{context}` and `{query}`; raises ValueError if one is missing."""
        if {match[1] for match in _PLACEHOLDER.finditer(template)} != {"context", "query"}:
            raise ValueError("the context template must hold both {context} and {query}")
        self._generate = generate
        self._template = template

    async def answer(self, model_name: str, question: Question) -> Answer:
        """The whole answer at once; cancelling the awaiting task ends the work."""
        if question.truncate and question.passages:
            kept = await self._passages_that_fit(model_name, question)
            question = replace(question, passages=question.passages[:kept])
        request = GenerationRequest(
            self._prompt(question, question.passages),
            question.sampling,
            question.timeout_seconds,
            question.request_id,
            client=question.client,
        )
        generation = await self._generate.complete(model_name, request, keep_alive=question.keep_alive)
        return Answer(generation, len(question.passages))

    def _prompt(self, question: Question, passages: Sequence[str]) -> Prompt:
        text = self._filled(question.query, passages) if passages else question.query
        system = () if question.system is None else (Message(Role.SYSTEM, question.system),)
        return Chat((*system, Message(Role.USER, text)))

    def _filled(self, query: str, passages: Sequence[str]) -> str:
        # One pass over the template only, so that braces in a passage or a query mean nothing.
        values = {"context": "\n\n".join(passages), "query": query}
        return _PLACEHOLDER.sub(lambda placeholder: values[placeholder[1]], self._template)

    async def _passages_that_fit(self, model_name: str, question: Question) -> int:
        """How many passages from the start leave room for at least one new token."""
        if await self._fits(model_name, question, len(question.passages)):
            return len(question.passages)
        fitting, too_many = 0, len(question.passages)
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            if await self._fits(model_name, question, middle):
                fitting = middle
            else:
                too_many = middle
        return fitting

    async def _fits(self, model_name: str, question: Question, count: int) -> bool:
        prompt = self._prompt(question, question.passages[:count])
        tokens, context_length = await self._generate.count_tokens(model_name, prompt)
        return tokens < context_length
