"""What messages say of a file's content."""

from hypothesis import given
from hypothesis import strategies as st

from textual_vision.runtime.backends.session import lines_of
from textual_vision.runtime.errors import QUOTED_CHARACTERS, shortened


@given(st.text(max_size=600))
def test_a_quotation_is_one_printable_line_of_at_most_200_characters(text):
    shown = shortened(text)
    assert len(shown) <= QUOTED_CHARACTERS + 1
    assert shown.isprintable()


def test_a_short_text_is_quoted_as_it_is():
    assert shortened("a dog, 🐶") == "a dog, 🐶"


def test_a_librarys_long_message_is_cut():
    lines = lines_of(RuntimeError("first " + "x" * 1000 + "\n\n\x1b[2Jsecond"))
    assert [len(line) for line in lines] == [201, 13]
    assert lines[1] == r"\x1b[2Jsecond"
