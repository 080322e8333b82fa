import json

import pytest

from domain.constraint import MAX_CHOICES, MAX_DEPTH, MAX_SOURCE_BYTES, Choice, JsonSchema, Regex
from domain.errors import InvalidRequest


def nested(depth: int) -> str:
    return '{"not":' * (depth - 1) + "{}" + "}" * (depth - 1)


def padded(size: int) -> str:
    return json.dumps({"title": "x" * (size - 13)})


def test_a_schema_at_the_limits_is_allowed() -> None:
    assert len(padded(MAX_SOURCE_BYTES)) == MAX_SOURCE_BYTES
    for schema in (nested(MAX_DEPTH), padded(MAX_SOURCE_BYTES), '{"title": "' + "[{" * 100 + '\\" [["}'):
        assert JsonSchema(schema).schema == schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (nested(MAX_DEPTH + 1), "deeper"),
        ("[" * 60_000, "deeper"),
        (padded(MAX_SOURCE_BYTES + 1), "bytes"),
        ("é" * (MAX_SOURCE_BYTES // 2 + 1), "bytes"),
        ("", "empty"),
        ("{", "valid JSON"),
        ('{"minimum": NaN}', "valid JSON"),
        ("[]", "object"),
        ('{"title": "\ud800"}', "surrogate"),
    ],
)
def test_a_schema_beyond_them_is_refused_with_the_reason(schema: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        JsonSchema(schema)
    assert caught.value.field == "constraint"


def test_a_pattern_has_a_size() -> None:
    assert Regex("a" * MAX_SOURCE_BYTES)
    for pattern in ("", "a" * (MAX_SOURCE_BYTES + 1)):
        with pytest.raises(InvalidRequest):
            Regex(pattern)


@pytest.mark.parametrize("options", [(), ("a", ""), ("a",) * (MAX_CHOICES + 1), ("a" * 40_000, "b" * 40_000)])
def test_a_choice_has_some_options_that_are_not_too_long(options: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Choice(options)
    assert caught.value.field == "constraint"
    assert Choice(("a",) * MAX_CHOICES)
