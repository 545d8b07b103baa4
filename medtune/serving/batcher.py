"""Continuous batching: answers of many requests are decoded together; each enters and leaves between steps.

One thread runs the model; others submit and cancel. Text is none of its business: it gives token ids.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from medtune.generation.decoding import Decoding, Request
from medtune.generation.engine import TransformersEngine, eval_mode
from medtune.serving.errors import Refusal, failed, too_busy, unavailable

# Prompt tokens that are read between two steps of the running rows, which wait meanwhile.
PREFILL_TOKENS = 4096
# Rows that have ended wait for others to take their places, since taking them out copies all that stay.
# They go when they are this share of all, or when so many columns are padding.
SHARE_OF_ENDED = 0.25
MOST_PADDING = 64
IDLE_SECONDS = 0.2  # between two looks at whether the server is to stop

log = logging.getLogger(__name__)

End = str | Refusal | None
"""Why an answer ended: ``stop`` (a stop token), ``length``, or an error; None while it goes on."""
Event = tuple["Job", list[int], End]


@dataclass(eq=False)
class Job:
    """One answer.

    Attributes:
        request: Prompt, settings and seed.
        limit: Most tokens of the answer.
        receive: Is given tokens and, with the last of them, the end.
        at_once: Whether all tokens are given together, at the end.
    """

    request: Request
    limit: int
    receive: Callable[[list[int], End], None]
    at_once: bool = False
    cancelled: bool = False
    made: int = 0
    pending: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Most columns of the batch that its row can take."""
        return len(self.request.prompt) + self.limit

    def take(self, token: int, stop_ids: frozenset[int]) -> End:
        """Takes the next token; gives the end when it is the last."""
        if token in stop_ids:
            return "stop"
        self.pending.append(token)
        self.made += 1
        return "length" if self.made == self.limit else None

    def drain(self) -> list[int]:
        """The tokens that were not given yet."""
        tokens, self.pending = self.pending, []
        return tokens


@dataclass
class Counts:
    """What ``/metrics`` tells of the batch; written by the model's thread alone."""

    steps: int = 0
    rows: int = 0
    step_seconds: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    cancelled: int = 0
    errors: int = 0


class Batcher:
    """Decodes submitted jobs in one running batch, first come, first served.

    Args:
        engine: Its model, stop tokens and padding.
        max_rows: Most rows of the batch.
        max_tokens: Most tokens of the batch: rows times the longest. A row alone always has a place.
        max_queue: Most jobs that wait.
        call: Calls a function with arguments in the thread in which jobs receive.
    """

    def __init__(
        self,
        engine: TransformersEngine,
        *,
        max_rows: int,
        max_tokens: int,
        max_queue: int,
        call: Callable[..., object],
    ) -> None:
        self.engine = engine
        self.max_rows, self.max_tokens, self.max_queue = max_rows, max_tokens, max_queue
        self.call = call
        self.counts = Counts()
        self._places: list[Job | None] = []  # in the order of the decoding's rows; None: it has ended
        self._decoding: Decoding | None = None
        self._joins = True  # until the model's cache turns out not to
        self._waiting: deque[Job] = deque()
        self._condition = threading.Condition()
        self._closed = False
        context = engine.context
        self._most = None if context is None else context + len(engine.virtual)

    @property
    def running(self) -> list[Job]:
        """Jobs with a place in the batch."""
        return [job for job in self._places if job is not None]

    @property
    def waiting(self) -> int:
        """Jobs without a place in the batch."""
        return len(self._waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs, all of them or none.

        Raises:
            Refusal: The queue is full, or the batcher has stopped.
        """
        with self._condition:
            if self._closed:
                raise unavailable("stopping")
            # A queue that is empty takes any request.
            if self._waiting and len(self._waiting) + len(jobs) > self.max_queue:
                raise too_busy(len(self._waiting), self.max_queue)
            self._waiting.extend(jobs)
            self._condition.notify()

    def cancel(self, job: Job) -> None:
        """Takes a job out: at once when it waits, before the next step when it runs."""
        with self._condition:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)

    def run(self, should_stop: Callable[[], bool], seconds_to_end: float = 0.0) -> None:
        """Decodes until ``should_stop``; then refuses what waits and lets what runs end, within a bound."""
        with eval_mode(self.engine.model):
            while not should_stop():
                self._wait_for_work()
                self.turn()
            self._close(time.monotonic() + seconds_to_end)

    def turn(self) -> None:
        """Lets cancelled rows go, takes waiting ones in, and makes a step."""
        events: list[Event] = []
        self._drop_cancelled()
        self._admit(events)
        self._step(events)
        self._tell(events)

    def _wait_for_work(self) -> None:
        with self._condition:
            if not self.running and not self._waiting:
                self._condition.wait(IDLE_SECONDS)

    def _close(self, deadline: float) -> None:
        with self._condition:
            self._closed = True
            refused = list(self._waiting)
            self._waiting.clear()
        self._tell([(job, [], unavailable("stopping")) for job in refused])
        while self.running and time.monotonic() < deadline:
            self.turn()
        self._tell([(job, job.drain(), unavailable("stopping")) for job in self.running])
        self._forget()

    def _tell(self, events: list[Event]) -> None:
        if events:
            self.call(hand_out, events)

    def _forget(self) -> None:
        self._places, self._decoding = [], None

    def _drop_cancelled(self) -> None:
        for place, job in enumerate(self._places):
            if job is not None and job.cancelled:
                self._places[place] = None
                self.counts.cancelled += 1

    def _take_out_ended(self, *, only_if_due: bool = False) -> None:
        """Lets rows that have ended leave the decoding."""
        decoding = self._decoding
        if decoding is None:
            return
        live = [place for place, job in enumerate(self._places) if job is not None]
        if not live:
            self._forget()
        elif len(live) < len(self._places) and not (only_if_due and not self._is_due(decoding, live)):
            self._places = [self._places[place] for place in live]
            decoding.keep(live)

    def _is_due(self, decoding: Decoding, live: Sequence[int]) -> bool:
        rows = decoding.rows
        if len(rows) - len(live) >= len(rows) * SHARE_OF_ENDED:
            return True
        if decoding.mask.shape[1] - max(rows[place].length for place in live) >= MOST_PADDING:
            return True
        # A row that has ended goes on all the same, up to the last position that the model knows.
        return self._most is not None and any(row.length >= self._most for row in rows)

    def _admit(self, events: list[Event]) -> None:
        jobs = self._next_jobs()
        for group in self._groups(jobs):
            self._start(group, events)

    def _next_jobs(self) -> list[Job]:
        """The jobs at the head of the queue for which there is room."""
        running = self.running
        if running and not self._joins:
            return []
        jobs: list[Job] = []
        tokens = 0
        longest = max((job.size for job in running), default=0)
        with self._condition:
            while self._waiting:
                job = self._waiting[0]
                rows = len(running) + len(jobs) + 1
                longest = max(longest, job.size)
                tokens += len(job.request.prompt)
                if rows > 1 and (rows > self.max_rows or rows * longest > self.max_tokens):
                    break
                if jobs and self._joins and tokens > PREFILL_TOKENS:
                    break
                jobs.append(self._waiting.popleft())
        return jobs

    def _groups(self, jobs: list[Job]) -> list[list[Job]]:
        """Jobs whose prompts are read together: without half of it being padding, where rows can join."""
        if not self._joins or not jobs:
            return [jobs] if jobs else []
        groups: list[list[Job]] = []
        for job in sorted(jobs, key=lambda job: -len(job.request.prompt)):
            if groups and 2 * len(job.request.prompt) >= len(groups[-1][0].request.prompt):
                groups[-1].append(job)
            else:
                groups.append([job])
        return groups

    def _start(self, jobs: list[Job], events: list[Event]) -> None:
        """Reads the jobs' prompts, and adds their rows to the batch."""
        if self._decoding is not None and not self._joins:  # as has just turned out
            with self._condition:
                self._waiting.extendleft(reversed(jobs))
            return
        try:
            decoding = Decoding(self.engine.model, [job.request for job in jobs], self.engine.pad_id)
            tokens = decoding.step()
        except Exception:  # of the model: whatever it is, the server lives on
            if len(jobs) > 1:  # each for itself, so that one's prompt costs no other's answer
                for job in jobs:
                    self._start([job], events)
                return
            self._fail(jobs, events, "reading a prompt")
            return
        self.counts.prompt_tokens += sum(len(job.request.prompt) for job in jobs)
        self._joins = decoding.can_join
        kept = self._hand(jobs, tokens, events)
        if not kept:
            return
        all_go_on = len(kept) == len(jobs)
        jobs = [jobs[place] for place in kept]
        try:
            if not all_go_on:
                decoding.keep(kept)
            self._enter(decoding, jobs)
        except Exception:  # of the model, such as no memory for a larger cache: the server lives on
            self._fail([*self.running, *jobs], events, "joining rows")
            self._forget()

    def _enter(self, decoding: Decoding, jobs: list[Job]) -> None:
        """Gives rows their places in the batch: those of rows that have ended, if they are enough."""
        free = [place for place, job in enumerate(self._places) if job is None]
        if (
            self._decoding is not None
            and self._decoding.can_replace
            and len(jobs) <= len(free) < len(self._places)
        ):
            places = free[: len(jobs)]
            self._decoding.replace(places, decoding)
            for place, job in zip(places, jobs, strict=True):
                self._places[place] = job
            return
        self._take_out_ended()
        if self._decoding is None:
            self._decoding = decoding
        else:
            self._decoding.join(decoding)
        self._places += jobs

    def _step(self, events: list[Event]) -> None:
        if self._decoding is None:
            return
        started = time.perf_counter()
        try:
            tokens = self._decoding.step()
            self.counts.steps += 1
            self.counts.rows += len(self.running)
            kept = set(self._hand(self._places, tokens, events))
            self._places = [job if place in kept else None for place, job in enumerate(self._places)]
            self._take_out_ended(only_if_due=True)  # which copies those that stay
        except Exception:  # of the model: whatever it is, the server lives on
            self._fail(self.running, events, "a step")
            self._forget()
        self.counts.step_seconds += time.perf_counter() - started

    def _hand(self, jobs: Sequence[Job | None], tokens: list[int], events: list[Event]) -> list[int]:
        """Gives each job its token; returns the places of those that go on."""
        kept = []
        stop_ids = self.engine.stop_ids
        for place, (job, token) in enumerate(zip(jobs, tokens, strict=True)):
            if job is None:
                continue
            self.counts.tokens += 1
            end = job.take(token, stop_ids)
            if end is None:
                kept.append(place)
            if end is not None or not job.at_once:
                events.append((job, job.drain(), end))
        return kept

    def _fail(self, jobs: Sequence[Job], events: list[Event], what: str) -> None:
        self.counts.errors += 1
        log.exception("the model failed at %s; %d requests are answered with 500", what, len(jobs))
        events += [(job, job.drain(), failed()) for job in jobs]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the likeliest cause is a full GPU


def hand_out(events: Sequence[Event]) -> None:
    """Has jobs receive what is new."""
    for job, tokens, end in events:
        if not job.cancelled:
            job.receive(tokens, end)
