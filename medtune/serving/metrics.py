"""What ``/metrics`` says, in Prometheus' text format."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from medtune.serving.batcher import Batcher

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of seconds up to bounds."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Counts one measurement."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        """The samples of the histogram."""
        total = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


@dataclass
class Metrics:
    """What the event loop's thread counts.

    Attributes:
        requests: By path and status; 499 is a client that went away.
        open: Requests that are being answered.
    """

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    open: int = 0
    first_token: Histogram = field(default_factory=Histogram)
    duration: Histogram = field(default_factory=Histogram)

    def text(self, batcher: Batcher | None, state: str) -> str:
        """The whole page."""
        return "\n".join([*self._lines(batcher, state), ""])

    def _lines(self, batcher: Batcher | None, state: str) -> Iterator[str]:
        yield from sample("medtune_ready", "gauge", "1 while requests are answered.", int(state == "ready"))
        yield from head("medtune_requests_total", "counter", "Requests by path and status; 499: client gone.")
        for (path, status), count in sorted(self.requests.items()):
            yield f'medtune_requests_total{{path="{path}",status="{status}"}} {count}'
        yield from sample("medtune_requests_open", "gauge", "Requests that are being answered.", self.open)
        yield from head("medtune_first_token_seconds", "histogram", "From a request to its first token.")
        yield from self.first_token.lines("medtune_first_token_seconds")
        yield from head("medtune_request_seconds", "histogram", "From a request to the end of its answer.")
        yield from self.duration.lines("medtune_request_seconds")
        if batcher is not None:
            yield from batch_lines(batcher)


def batch_lines(batcher: Batcher) -> Iterator[str]:
    """What the running batch counts."""
    counts = batcher.counts
    for name, kind, meaning, value in (
        ("batch_rows", "gauge", "Answers that are being decoded.", len(batcher.running)),
        ("queue_rows", "gauge", "Answers that wait for a place in the batch.", batcher.waiting),
        ("steps_total", "counter", "Steps of the batch.", counts.steps),
        ("step_rows_total", "counter", "Rows of all steps.", counts.rows),
        ("step_seconds_total", "counter", "Seconds spent in steps.", round(counts.step_seconds, 6)),
        ("prompt_tokens_total", "counter", "Tokens of prompts that were read.", counts.prompt_tokens),
        ("answer_tokens_total", "counter", "Tokens that were made, stop tokens included.", counts.tokens),
        (
            "cancelled_rows_total",
            "counter",
            "Answers taken out of the batch before their end.",
            counts.cancelled,
        ),
        ("model_errors_total", "counter", "Failures of the model.", counts.errors),
    ):
        yield from sample(f"medtune_{name}", kind, meaning, value)


def sample(name: str, kind: str, meaning: str, value: float) -> Iterator[str]:
    """A metric with one value."""
    yield from head(name, kind, meaning)
    yield f"{name} {value}"


def head(name: str, kind: str, meaning: str) -> Iterator[str]:
    """What stands before a metric's samples."""
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
