"""What is shown of long work, with a clock that the test moves."""

import io
import logging

import pytest

from medtune.runtime import progress as module
from medtune.runtime.progress import Done, progress, shown_by


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.mark.parametrize(
    ("total", "share", "tokens", "line"),
    [
        pytest.param(40, None, 0, "10 of 40 prompts, 2/s, 15 s left", id="total"),
        pytest.param(None, 0.25, 500, "10 prompts, 2/s, 100 tokens/s, 15 s left", id="share"),
        pytest.param(None, None, 0, "10 prompts, 2/s", id="unknown"),
        pytest.param(None, 0.01, 0, "10 prompts, 2/s, 8 min left", id="minutes"),
        pytest.param(None, 1.5, 0, "10 prompts, 2/s, 0 s left", id="more_than_all"),
    ],
)
def test_a_line_tells_how_far_it_is(clock, caplog, total, share, tokens, line):
    caplog.set_level(logging.INFO)
    with progress("answering test", unit="prompts", total=total) as advance:
        clock.now += 5.0
        advance(10, tokens=tokens, share=share)
    assert caplog.messages == [f"answering test: {line}"]


def test_lines_are_seconds_apart_and_short_work_has_none(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress("reading", unit="records") as advance:
        for _ in range(30):
            clock.now += 1.0
            advance(1)
    assert [line.split(",")[0] for line in caplog.messages] == [
        "reading: 3 records",
        "reading: 13 records",
        "reading: 23 records",
    ]


def test_a_terminal_has_a_bar_that_disappears(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module.sys, "stderr", Terminal())
    with progress("tokenising", unit="records") as advance:
        advance(7, tokens=70, share=0.5)
        advance(7, tokens=70, share=1.0)
    assert "tokenising" in module.sys.stderr.getvalue()
    assert caplog.messages == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_share_says_more_than_the_number_of_units(clock):
    done = Done("prompts", total=4)
    clock.now += 10.0
    done.add(1, 0, 0.5)
    assert (done.amount, done.left) == ("1 of 4 prompts, 0/s", ", 10 s left")
    done.add(1, 0, 0.0)
    assert done.left == ""


def test_work_inside_other_work_is_told_to_its_bar(caplog):
    caplog.set_level(logging.INFO)
    told = []
    with shown_by(told.append), progress("answering dev", unit="prompts", total=2) as advance:
        advance(1)
        advance(1)
    assert [text.split(",")[0] for text in told] == [
        "answering dev",
        "answering dev: 1 of 2 prompts",
        "answering dev: 2 of 2 prompts",
    ]
    with shown_by(None), progress("reading", unit="records"):
        pass
    assert len(told) == 3
    assert caplog.messages == []


def test_nothing_done_tells_nothing(clock):
    assert Done("records", None).left == ""
    assert Done("records", 10).amount == "0 of 10 records, 0/s"
