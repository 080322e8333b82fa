"""Constraints: what ends has the form that was asked for, and what cannot be enforced is refused."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from domain.constraint import AnyJson, Choice, Constraint, JsonSchema, Regex
from domain.errors import InvalidRequest
from domain.generation import FinishReason
from domain.prompt import RawText
from models.text.engine import TextEngine
from tests.models.talking import ask, collect, collect_all, idle, talking
from tests.models.tiny import byte_tokenizer, save_tiny

PERSON = JsonSchema(
    json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 6},
                "age": {"type": "integer", "minimum": 0, "maximum": 130},
                "kind": {"enum": ["cat", "dög 🙂"]},
                "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
            },
            "required": ["name", "age", "kind", "tags"],
            "additionalProperties": False,
        }
    )
)


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age", "kind", "tags"]
        and len(value["name"]) <= 6
        and 0 <= value["age"] <= 130
        and value["kind"] in ("cat", "dög 🙂")
        and 1 <= len(value["tags"]) <= 3
        and all(isinstance(tag, bool) for tag in value["tags"])
    )


def is_json(text: str) -> bool:
    json.loads(text)
    return True


FORMS: list[tuple[Constraint, Callable[[str], bool]]] = [
    (AnyJson(), is_json),
    (PERSON, is_person),
    (Regex(r"[a-c]{3,9}-\d+é?"), lambda text: re.fullmatch(r"[a-c]{3,9}-\d+é?", text) is not None),
    (Choice(("yes", 'n"o\n', "Привет", "maybe")), lambda text: text in ("yes", 'n"o\n', "Привет", "maybe")),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", talks=True)


@pytest.fixture
def engine(directory: Path) -> Iterator[TextEngine]:
    with talking(directory, max_waiting=64) as engine:
        yield engine


def under(constraint: Constraint, max_tokens: int = 300, **sampling: Any) -> Any:
    return replace(ask(max_tokens, **{"ignore_eos": False, **sampling}), constraint=constraint)


async def test_what_ends_has_its_form_whoever_else_is_there(engine: TextEngine) -> None:
    wishes: list[dict[str, Any]] = [{"temperature": 1.5, "seed": seed, "top_k": 40 * seed} for seed in range(6)]
    requests = [(under(form, **wish), fits) for form, fits in FORMS for wish in wishes]
    answers = await asyncio.gather(*(collect(engine.generate(request)) for request, _ in requests))
    ended = 0
    for (text, last), (_, fits) in zip(answers, requests, strict=True):
        assert last.finish is not None
        if last.finish.reason is FinishReason.STOP:
            assert fits(text), text
            ended += 1
    assert ended > len(requests) // 2
    for (text, _), (request, _) in list(zip(answers, requests, strict=True))[::5]:
        assert (await collect(engine.generate(request)))[0] == text
    await idle(engine)


async def test_each_of_several_answers_keeps_its_own_place(engine: TextEngine) -> None:
    texts = await collect_all(engine.generate(replace(under(PERSON, temperature=1.5, seed=1), n=4)))
    assert all(is_person(text) for text in texts)
    assert len(set(texts)) > 1
    await idle(engine)


async def test_an_answer_ends_by_itself_when_nothing_may_follow(engine: TextEngine) -> None:
    for sampling in ({}, {"ignore_eos": True}, {"min_tokens": 50}):
        text, last = await collect(engine.generate(under(Choice(("abcdef",)), **sampling)))
        assert last.finish is not None
        assert (text, last.finish.reason, last.finish.usage.completion_tokens) == ("abcdef", FinishReason.STOP, 6)


async def test_the_end_comes_only_where_the_form_allows_it(engine: TextEngine) -> None:
    wish: dict[str, Any] = {"logit_bias": ((2, 100.0),)}
    assert (await collect(engine.generate(under(Regex("a{3,9}"), **wish))))[0] == "aaa"
    assert (await collect(engine.generate(under(Regex("a{3,9}"), **wish, min_tokens=5))))[0] == "aaaaa"
    assert (await collect(engine.generate(under(Regex("a{3,9}"), **wish, ignore_eos=True))))[0] == "a" * 9


async def test_a_stop_string_ends_an_answer_only_where_it_is_complete(engine: TextEngine) -> None:
    assert (await collect(engine.generate(under(Regex("ab{4}(cd)?"), stop=("b", "c")))))[0] == "abbbb"
    text, _ = await collect(engine.generate(under(PERSON, temperature=1.0, seed=2, stop=("}", ":", '"'))))
    assert is_person(text)


async def test_a_stop_token_ends_an_answer_only_where_it_is_complete(engine: TextEngine) -> None:
    letter = byte_tokenizer().token_to_id("b")
    for pattern, expected in (("ab{4}", "abbbb"), ("a(b)*", "a")):
        wish: dict[str, Any] = {"stop_token_ids": (letter,), "logit_bias": ((letter, 100.0),)}
        assert (await collect(engine.generate(under(Regex(pattern), **wish))))[0] == expected


async def test_an_answer_that_is_cut_by_its_length_says_so(engine: TextEngine) -> None:
    text, last = await collect(engine.generate(under(Choice(("abcdef",)), 4)))
    assert last.finish is not None
    assert (text, last.finish.reason) == ("abcd", FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (JsonSchema('{"type": "horse"}'), "horse"),
        (JsonSchema('{"type": "array", "uniqueItems": true}'), "uniqueItems"),
        (JsonSchema('{"not": {}}'), "not"),
        (JsonSchema('{"$ref": "http://example.org/schema"}'), "example.org"),
        (JsonSchema('{"$ref": "#"}'), "no text"),
        (JsonSchema('{"type": "array", "minItems": 3, "maxItems": 1}'), "minItems"),
        (Regex("(a"), "unclosed"),
        (Regex("(?=a)b"), "look-ahead"),
        (Regex("(((a{1000}){1000}){1000}){1000}"), "too many"),
        (Regex("[^\\x00-\\x{10FFFF}]"), "no text"),
    ],
)
async def test_what_cannot_be_enforced_is_refused_with_the_reason(
    engine: TextEngine, constraint: Constraint, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        await collect(engine.generate(under(constraint)))
    assert refused.value.field == "constraint"
    assert len(str(refused.value)) < 600
    await idle(engine)
    assert (await collect(engine.generate(ask(3, RawText("still here")))))[0]


async def test_a_large_schema_is_no_problem(engine: TextEngine) -> None:
    names = [f"key_{number}" for number in range(1100)]
    properties = {name: {"type": "string", "maxLength": len(name)} for name in names}
    schema = json.dumps({"type": "object", "properties": properties, "required": names})
    assert len(schema) > 50_000
    text, _ = await collect(engine.generate(under(JsonSchema(schema), 90)))
    assert re.match(r'\{\s*"key_0"\s*:', text)


async def test_a_constraint_is_compiled_once_and_only_so_many_are_kept(engine: TextEngine) -> None:
    grammars = engine._intake._grammars
    first = await grammars.compile(Choice(("0",)))
    assert (await grammars.compile(Choice(("0",))))._start is first._start
    for number in range(40):
        await grammars.compile(Choice((str(number),)))
    assert len(grammars._compiled) == 16
    assert (await grammars.compile(Choice(("0",))))._start is not first._start
