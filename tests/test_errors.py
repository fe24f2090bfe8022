import pytest

from wnrl.errors import (
    UsageError,
    check_choice,
    check_from_zero,
    check_positive,
    first_line,
    printable,
)


def test_unknown_word_names_the_argument_the_options_and_the_nearest():
    with pytest.raises(UsageError, match=r"norm must be one of none, weight, got 'wieght'; did .*"):
        check_choice("norm", "wieght", ["none", "weight"])


def test_among_many_words_one_that_is_alike_in_its_version_is_no_guess():
    games = [f"Game{number}-v0" for number in range(30)]
    with pytest.raises(UsageError, match=r"31 known words, got 'Foo-v0'$"):
        check_choice("env_id", "Foo-v0", [*games, "Pooyan-v0"])
    with pytest.raises(UsageError, match="did you mean 'Pooyan-v0'"):
        check_choice("env_id", "poyan-v0", [*games, "Pooyan-v0"])


def test_wrong_case_is_told_the_right_one():
    with pytest.raises(UsageError, match="did you mean 'CartPole-v1'"):
        check_choice("env_id", "cartpole-v1", ["CartPole-v1", "Acrobot-v1"])


def test_word_like_no_other_gets_no_guess():
    with pytest.raises(UsageError, match=r"got 'xyzzy'$"):
        check_choice("device", "xyzzy", ["cpu", "cuda"])


def test_a_word_of_a_table_that_can_be_added_to_is_told_how():
    with pytest.raises(UsageError, match=r"got 'mine'; for one of your own, --import its module$"):
        check_choice("norm", "mine", ["none", "weight"])


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_sizes_must_be_above_zero(value):
    with pytest.raises(UsageError, match="batch_size must be above zero"):
        check_positive(learning_rate=1.0, batch_size=value)


def test_endless_sizes_are_refused():
    with pytest.raises(UsageError, match="budget must be finite, got inf"):
        check_positive(budget=float("inf"))


def test_printable_text_is_one_line_without_control_characters():
    assert printable("a\x1b[31m\nb\tc\r\x00") == r"a\x1b[31m b c \x00"


def test_the_first_line_of_an_error_is_shown_or_the_name_of_its_class():
    assert first_line(ValueError("\n no \x1b file\nat all")) == r"no \x1b file"
    assert first_line(ZeroDivisionError(" \n")) == "ZeroDivisionError"


def test_printable_text_ends_after_its_length():
    assert printable("x" * 300) == "x" * 200


def test_a_choice_of_nothing_is_said_to_be_none():
    with pytest.raises(UsageError, match=r"^variant has no choice here, got 'foo'$"):
        check_choice("variant", "foo", [])


@pytest.mark.parametrize("check", [check_positive, check_from_zero])
@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(check, value):
    with pytest.raises(UsageError, match=f"^rate must be .*, got {value}$"):
        check(rate=value)
