import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Decoding, Figures, Waits, decoding_of, undisturbed_step, waits_of
from benchmarks.load import Intrusion
from benchmarks.prompts import Prompts
from benchmarks.report import Measured, as_json, bars_of, render
from benchmarks.streaming import Answer, RequestFailed, chat_request, read_answer
from benchmarks.text import main, named_url
from benchmarks.turns import BARE, OURS, with_floor

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(*contents: str, **more: object) -> bytes:
    choices = [{"index": 0, "delta": {"content": content}} for content in contents]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


EVENTS = [
    event(""),
    event("one"),
    b": ping\n\n",
    event(" two"),
    event(usage={"prompt_tokens": 7, "completion_tokens": 3}),
]
WHOLE = HEAD + b"".join(map(chunk, EVENTS)) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


@given(st.lists(st.integers(1, len(WHOLE) - 1), max_size=30))
def test_an_answer_is_the_same_however_the_network_cuts_it(cuts: list[int]) -> None:
    places = [0, *sorted(set(cuts)), len(WHOLE)]
    received = [(float(start), WHOLE[start:end]) for start, end in pairwise(places)]
    answer = read_answer(-1.0, received)
    assert len(answer.arrivals) == 2
    assert (answer.prompt_tokens, answer.tokens) == (7, 3)


def test_a_piece_of_text_arrives_with_the_last_byte_of_its_chunk() -> None:
    end_of_first = WHOLE.index(b"one") + len(b'one"}}]}\n\n')
    received = [(1.0, WHOLE[: end_of_first - 1]), (2.0, WHOLE[end_of_first - 1 :])]
    assert read_answer(0.0, received).arrivals == (2.0, 2.0)
    received = [(1.0, WHOLE[:end_of_first]), (2.0, WHOLE[end_of_first:])]
    assert read_answer(0.5, received).arrivals == (1.0, 2.0)
    assert read_answer(0.5, received).first == 0.5


def test_an_answer_without_chunked_framing_is_read_until_the_connection_closes() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    received = [(1.0, head + event("one")), (2.0, event(" two") + b"data: [DONE]\n\n")]
    answer = read_answer(0.0, received)
    assert answer.arrivals == (1.0, 2.0)
    assert answer.tokens == 2


@pytest.mark.parametrize(
    ("received", "words"),
    [
        ([], "without an answer"),
        ([(1.0, b'HTTP/1.1 503 Busy\r\n\r\n{"error": "full"}')], "503 Busy.*full"),
        ([(1.0, WHOLE[:-20])], "broke off"),
        ([(1.0, HEAD + chunk(b'data: {"error": {"message": "no room"}}\n\n') + b"0\r\n\r\n")], "no room"),
        ([(1.0, HEAD + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")], "no text"),
    ],
)
def test_what_is_no_whole_answer_is_a_failure_that_says_why(received: list[tuple[float, bytes]], words: str) -> None:
    with pytest.raises(RequestFailed, match=words):
        read_answer(0.0, received)


def test_a_stream_that_was_left_keeps_what_had_come() -> None:
    assert len(read_answer(0.0, [(1.0, WHOLE[:-40])], whole=False).arrivals) == 2


def test_a_request_goes_to_the_path_of_the_base_url_and_asks_for_usage() -> None:
    head, _, payload = chat_request("http://127.0.0.1:9/v1/", {"model": "m"}).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:9\r\n")
    assert f"Content-Length: {len(payload)}".encode() in head
    assert json.loads(payload) == {"model": "m", "stream": True, "stream_options": {"include_usage": True}}


def test_decoding_counts_what_came_while_everybody_decoded() -> None:
    early = Answer(0.0, 4.0, (1.0, 2.0, 3.0, 4.0), completion_tokens=4)
    late = Answer(0.0, 5.0, (2.0, 3.0, 4.0, 5.0), completion_tokens=4)
    # From 2 to 4: two of each.
    assert decoding_of([early, late]) == Decoding(2, 2.0, 8 / 5)
    assert decoding_of([early, late]).per_stream == 1.0


def test_pieces_of_several_tokens_count_as_many() -> None:
    assert decoding_of([Answer(0.0, 2.0, (1.0, 2.0), completion_tokens=6)]).while_decoding == 3.0


def test_answers_one_after_the_other_never_decode_together() -> None:
    decoding = decoding_of([Answer(0.0, 2.0, (1.0, 2.0)), Answer(0.0, 4.0, (3.0, 4.0))])
    assert decoding.while_decoding is None
    assert decoding.end_to_end == 1.0


def test_a_step_is_measured_between_the_questions() -> None:
    question = Answer(2.5, 3.5, (3.4,))
    assert undisturbed_step(Intrusion((question,), ((1.0, 2.0, 4.0, 5.0),))) == 1.0
    assert waits_of([question], 0.3).steps == pytest.approx(3.0)


def test_prompts_have_the_wanted_length_and_never_begin_alike() -> None:
    def count(text: str) -> int:
        return 30 + len(text.split())

    prompts = Prompts(count)
    made = [prompts.make(130) for _ in range(50)]
    assert {count(prompt) for prompt in made} == {130}
    assert len({prompt[:60] for prompt in made}) == 50


def measured(*rates: float) -> Measured:
    """A turn of each kind for each rate that was ours; the peer decodes at 50 and the bare loop at 100."""
    turns = []
    for rate in rates:
        for streams in (1, 8):
            decoding = {
                name: Figures(decoding={streams: Decoding(streams, one, one)})
                for name, one in ((OURS, rate), ("peer", 50.0))
            }
            bare = Figures(decoding={streams: Decoding(streams, 100.0, None)}, floor_seconds=0.004)
            turns.append(with_floor({**decoding, BARE: bare}))
        turns.append({OURS: Figures(prompt=1000.0), "peer": Figures(prompt=200.0)})
        turns.append({OURS: Figures(busy=Waits(0.2, 0.3, 0.05))})
        turns.append({OURS: Figures(health_p99=0.02)})
    return Measured(turns, ["peer"], [], "int8", 1_000_000)


def lines_of(found: Measured) -> dict[str, str]:
    return {line.split("|")[1].strip(): line for line in render(found).splitlines() if "|" in line}


def test_only_bars_that_the_run_can_judge_are_judged() -> None:
    bars = bars_of(measured(100.0))
    assert [bar.text for bar in bars] == [
        "decode at 8 streams ÷ peer",
        "decode at 1 stream ÷ peer",
        "prompt of 1,000 tokens ÷ peer",
        "decode at 8 streams ÷ bare loop of kernels",
        "first token while 8 decode, p50 in steps",
        "/health while 8 decode, p99 ms",
    ]
    assert all(bar.holds for bar in bars)


def test_a_missed_bar_shows() -> None:
    missed = [bar.text for bar in bars_of(measured(80.0)) if not bar.holds]
    assert missed == ["decode at 8 streams ÷ peer", "decode at 8 streams ÷ bare loop of kernels"]
    assert render(measured(80.0)).count("MISSED") == 2
    assert "MISSED" not in render(measured(100.0))


def test_times_improve_downwards_and_rates_upwards() -> None:
    lines = lines_of(measured(100.0))
    assert "2.00 x" in lines["8 streams: sum while decoding, tok/s"]
    assert "2.00 x" in lines["8 streams: step, ms"]
    assert "2.00 x" in lines["8 streams: step over the memory floor"]


def test_a_step_is_held_against_the_floor_of_its_turn() -> None:
    # 8 tokens at 100 a second take 80 ms, 20 times the floor.
    assert "| 20.00 |" in lines_of(measured(100.0))["8 streams: step over the memory floor"]


def test_a_bar_is_judged_by_the_median_of_its_turns_and_shows_the_others() -> None:
    bar = next(bar for bar in bars_of(measured(40.0, 110.0, 105.0)) if bar.text == "decode at 8 streams ÷ peer")
    assert (bar.value, bar.lowest, bar.highest, bar.turns) == (2.1, 0.8, 2.2, 3)
    assert bar.holds


def test_waiting_in_steps_is_paired_within_a_round() -> None:
    turns = [{OURS: Figures(busy=Waits(p50, p50, step))} for p50, step in ((0.3, 0.1), (0.4, 0.2), (0.8, 0.1))]
    found = Measured([*measured(100.0).turns, *turns], [], [], "int8", 1)
    assert next(bar for bar in bars_of(found) if "in steps" in bar.text).value == pytest.approx(3.5)


def test_machines_can_read_all_of_it() -> None:
    read = json.loads(json.dumps(as_json(measured(80.0, 100.0, 100.0))))
    assert {bar["text"]: bar["holds"] for bar in read["bars"]}["decode at 8 streams ÷ peer"]
    rows = {row["heading"]: row for row in read["rows"]}
    better = rows["8 streams: step, ms"]["better_by"]["peer"]
    assert better == {"median": 2.0, "lowest": 1.6, "highest": 2.0, "turns": 3}
    assert len(read["measured"]["turns"]) == 15


def test_a_peer_is_a_name_and_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert named_url("llama=http://127.0.0.1:1/v1?a=b") == ("llama", "http://127.0.0.1:1/v1?a=b")
    with pytest.raises(SystemExit):
        main(["--peer", "127.0.0.1:1"])
    assert "NAME=http://host:port/v1" in capsys.readouterr().err
