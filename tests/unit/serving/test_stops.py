import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtune.serving.stops import StopText


def run(stops, pieces):
    text = StopText(stops)
    shown = [text.push(piece) for piece in pieces]
    return [*shown, text.end()], text.found


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "found"),
    [
        pytest.param([], ["a", "b"], ["a", "b", ""], False, id="none"),
        pytest.param(["x"], ["ab", "cx", "d"], ["ab", "c", "", ""], True, id="in_a_piece"),
        pytest.param(["END"], ["aE", "N", "D", "b"], ["a", "", "", "", ""], True, id="over_three_pieces"),
        pytest.param(["END"], ["aE", "N", "o"], ["a", "", "ENo", ""], False, id="begun_but_not_ended"),
        pytest.param(["END"], ["aE", "N"], ["a", "", "EN"], False, id="held_back_to_the_end"),
        pytest.param(["aab"], ["aa", "ab"], ["", "a", ""], True, id="begins_anew_within_itself"),
        pytest.param(["bcd", "c"], ["abcd"], ["ab", ""], True, id="the_one_that_is_complete_first"),
        pytest.param(["bc", "c"], ["abc"], ["a", ""], True, id="of_those_that_end_together_the_longest"),
        pytest.param(["\n\n"], ["a\n", "\nb"], ["a", "", ""], True, id="line_breaks"),
    ],
)
def test_nothing_of_a_stop_string_is_shown(stops, pieces, shown, found):
    assert run(stops, pieces) == (shown, found)


@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3),
    cuts=st.sets(st.integers(0, 30)),
)
def test_what_is_shown_does_not_depend_on_the_pieces(text, stops, cuts):
    """Against the definition: the stop string with the first end, of those the longest."""
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in zip(borders, borders[1:], strict=False)]
    ends = [
        (end, end - len(stop)) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)
    ]
    due = text[: min(ends)[1]] if ends else text
    shown, found = run(stops, pieces)
    assert ("".join(shown), found) == (due, bool(ends))
