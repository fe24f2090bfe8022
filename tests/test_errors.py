from wnrl.errors import printable


def test_printable_text_is_one_line_without_control_characters():
    assert printable("a\x1b[31m\nb\tc\r\x00") == r"a\x1b[31m b c \x00"


def test_printable_text_ends_after_its_length():
    assert printable("x" * 300) == "x" * 200
