"""Strings that end an answer, found over the borders of the pieces in which it comes."""

from collections.abc import Sequence


class StopText:
    """Lets an answer's text through up to the first stop string, of which nothing is ever shown.

    The first is the one that is complete first; of several that end together, the longest. So what is shown
    does not depend on how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""  # may be the beginning of a stop string
        self.found = False

    def push(self, piece: str) -> str:
        """The text that can be shown now that ``piece`` has come."""
        if self.found or not piece:
            return ""
        if not self.stops:
            return piece
        text = self.held + piece
        ends = [(text.find(stop) + len(stop), -len(stop)) for stop in self.stops if stop in text]
        if ends:
            end, length = min(ends)
            self.found, self.held = True, ""
            return text[: end + length]
        keep = max(overlap(text, stop) for stop in self.stops)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back when nothing more comes."""
        text, self.held = self.held, ""
        return text


def overlap(text: str, stop: str) -> int:
    """Characters at the end of ``text`` that are a beginning of ``stop``, but not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
