"""Lines for a terminal: what is in them moves no cursor and begins no line."""

import pytest

from airflow_mlops.core.lines import one_line, without_codes, written

CODES = [
    "\n", "\r", "\x0b", "\x0c", "\x1b[2K", "\x1c", "\x07", "\x85", "\x9b2K", "\u2028", "\u2029",
    "\u202e", "\u2066", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("code", CODES, ids=ascii)
def test_a_code_is_shown_and_not_followed(code):
    assert one_line(f"a{code}b") == f"a{code.encode('unicode_escape').decode()}b"
    assert written([f"a{code}", "b"]).count("\n") == 1
    assert without_codes(f"a\n\tb{code}").startswith("a\n\tb")


@pytest.mark.parametrize("text", ["", "plain", "é🙂 'quoted'", "1", "日本", "🧑‍💻", "a\\n"])
def test_what_people_can_read_stays_as_it_is(text):
    assert one_line(text) == without_codes(text) == text
