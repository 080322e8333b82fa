import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidRequest
from domain.keep_alive import FOREVER, parse_go_duration, parse_keep_alive

UNITS = {
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("1e-3"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ns": Decimal("1e-9"),
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("+0", 0.0),
        ("5m", 300.0),
        ("+5m", 300.0),
        (" 5m ", 300.0),
        ("300ms", 0.3),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("2h45m", 9900.0),
        ("-2h45m", -9900.0),
        ("1h1m1s1ms1us1ns", 3661.001001001),
        ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6),
        ("1s1s", 2.0),
    ],
)
def test_go_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_go_duration(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "5 m",
        "1h 5m",
        "-",
        "+",
        "5",
        "1.5",
        "m",
        ".s",
        "5M",
        "5d",
        "-+5m",
        "+-5m",
        "--5m",
        "5m-3s",
        "5m!",
        "1e3s",
        "0x5s",
        "nan",
        "inf",
        "infs",
        "1.5.2s",
        "1_000s",
        "\u0665m",
        "5m\x00",
    ],
)
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_go_duration(text)


def test_a_long_duration_is_not_cut_to_a_shorter_one() -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_go_duration("1s" * 40)


def test_the_complaint_about_a_very_long_text_is_short() -> None:
    with pytest.raises(ValueError, match="is not a duration") as caught:
        parse_go_duration("x" * 1_000_000)
    assert len(str(caught.value)) < 200


terms = st.lists(
    st.tuples(st.decimals(0, 999, places=2, allow_nan=False, allow_infinity=False), st.sampled_from(sorted(UNITS))),
    min_size=1,
    max_size=4,
)


@given(terms, st.sampled_from(["", "+", "-"]))
def test_a_duration_is_the_sum_of_its_terms(terms: list[tuple[Decimal, str]], sign: str) -> None:
    text = sign + "".join(f"{number}{unit}" for number, unit in terms)
    total = float(sum((number * UNITS[unit] for number, unit in terms), Decimal(0)))
    assert parse_go_duration(text) == pytest.approx(-total if sign == "-" else total, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (0.0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        (300, 300.0),
        (0.5, 0.5),
        ("5m", 300.0),
        (-1, FOREVER),
        (-0.001, FOREVER),
        ("-1m", FOREVER),
        (math.inf, FOREVER),
        (-math.inf, FOREVER),
        (10**400, FOREVER),
        (1e18, FOREVER),
        ("9999999999h", FOREVER),
        (2_000_000_000, 2e9),
    ],
)
def test_keep_alive_is_seconds_or_a_duration_and_negative_is_for_ever(value: object, seconds: float) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize(
    "value", [None, True, False, [], {}, b"5m", "", "soon", "5", "5 minutes", math.nan, "1s" * 40, object()]
)
def test_what_is_neither_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive") as caught:
        parse_keep_alive(value)
    assert caught.value.field == "keep_alive"


@given(
    st.one_of(
        st.integers(),
        st.floats(),
        st.text(),
        st.text(alphabet="0123456789.hmsuµn+-"),
        st.none(),
        st.booleans(),
        st.binary(),
    )
)
def test_whatever_a_client_sends_is_a_time_to_stay_or_refused(value: object) -> None:
    try:
        seconds = parse_keep_alive(value)
    except InvalidRequest as error:
        assert error.field == "keep_alive"
    else:
        assert isinstance(seconds, float)
        assert 0.0 <= seconds <= 2**63 * 1e-9 or seconds == FOREVER


@given(st.floats(min_value=0, max_value=1e9))
def test_a_number_of_seconds_is_taken_as_it_stands(seconds: float) -> None:
    assert parse_keep_alive(seconds) == seconds
