import pytest

from benchmarks.record import BENCHMARKS, PAGE, block, machine, replaced


def test_a_table_takes_the_place_of_the_one_before_and_nothing_else() -> None:
    page = "a\n<!-- text -->\nold\n<!-- end of text -->\nb\n<!-- kernels -->\n<!-- end of kernels -->\n"
    once = replaced(page, "text", r"new \1")
    assert once == page.replace("old", r"new \1")
    assert replaced(once, "text", "old") == page


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places for text"):
        replaced("nothing", "text", "new")


def test_the_page_has_a_place_for_every_benchmark() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in BENCHMARKS:
        assert replaced(page, name, "new") != page


def test_a_table_says_when_where_and_how_it_was_taken_and_whether_beside_other_work() -> None:
    quiet = block("text", ["--quick"], "the table", 0.1)
    assert "python -m benchmarks.text --quick" in quiet
    assert machine() in quiet
    assert "to be taken again" not in quiet
    assert "load 4.0" in block("text", [], "the table", 4.0)
