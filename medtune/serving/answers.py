"""Requests become jobs of the batch, and tokens become text; all of it in the event loop's thread."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from medtune.data.tokens.templates import Template
from medtune.generation.decoding import Request
from medtune.generation.engine import TransformersEngine
from medtune.generation.sampling import prompt_seeds
from medtune.generation.text import TextStream, decode
from medtune.serving.asked import Asked, Prompt
from medtune.serving.batcher import Batcher, End, Job
from medtune.serving.errors import Refusal, failed
from medtune.serving.stops import StopText

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer.

    Attributes:
        index: Which answer of the request.
        text: What comes next.
        finish: ``stop`` or ``length`` with the last piece.
    """

    index: int
    text: str
    finish: str | None = None


class Gone(Exception):
    """The client went away."""


class Choice:
    """One answer of a request while it comes."""

    def __init__(self, index: int, answers: "Answers", *, at_once: bool) -> None:
        self.index = index
        self.answers = answers
        self.at_once = at_once
        self.text = TextStream(answers.tokenizer)
        self.stops = StopText(answers.asked.stops)
        self.tokens = 0
        self.job: Job | None = None

    def receive(self, tokens: list[int], end: End) -> None:
        """Turns tokens into text for the client."""
        if isinstance(end, Refusal):
            self.answers.put(end)
            return
        try:
            text = self._text(tokens, end)
        except Exception:  # here, since other jobs receive after this one
            log.exception("an answer's tokens could not be turned into text")
            self.answers.put(failed())
            return
        finish = end
        if self.stops.found:
            finish = "stop"
            if end is None and self.job is not None:
                self.answers.batcher.cancel(self.job)
        if text or finish is not None:
            self.answers.put(Piece(self.index, text, finish))

    def _text(self, tokens: list[int], end: End) -> str:
        if self.at_once:
            self.tokens = len(tokens)
            return decode(self.answers.tokenizer, tokens)
        text = ""
        for token in tokens:
            self.tokens += 1
            text += self.stops.push(self.text.push(token))
            if self.stops.found:
                return text
        if end is not None:
            text += self.stops.push(self.text.end())
            text += self.stops.end()
        return text


class Answers:
    """All answers of one request, as a stream of pieces."""

    def __init__(self, asked: Asked, tokenizer: PreTrainedTokenizerBase, batcher: Batcher) -> None:
        self.asked = asked
        self.tokenizer = tokenizer
        self.batcher = batcher
        self.queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self.choices: list[Choice] = []
        self.prompt_tokens = 0
        self.first_token_at: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the answers so far."""
        return sum(choice.tokens for choice in self.choices)

    def put(self, item: Piece | Exception) -> None:
        """Adds what the client is to get."""
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        self.queue.put_nowait(item)

    def leave(self) -> None:
        """Says that the client went away."""
        self.queue.put_nowait(Gone())

    def cancel(self) -> None:
        """Takes what still runs out of the batch."""
        for choice in self.choices:
            if choice.job is not None:
                self.batcher.cancel(choice.job)

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """The pieces in their order, those that have come meanwhile together, until every answer has ended.

        Raises:
            Refusal: The server could not finish.
            Gone: The client went away.
        """
        running = len(self.choices)
        while running:
            items = [await self.queue.get()]
            while not self.queue.empty():
                items.append(self.queue.get_nowait())
            pieces = [item for item in items if isinstance(item, Piece)]
            if pieces:
                yield pieces
            for item in items:
                if isinstance(item, Exception):
                    raise item
            running -= sum(piece.finish is not None for piece in pieces)


@dataclass
class Answerer:
    """Whatever is needed to answer: model, tokenizer, template and the running batch.

    Attributes:
        context: Most tokens of a prompt and its answer.
        encoding: The one thread in which prompts become ids, so that a long one does not stop the others'
            answers.
    """

    engine: TransformersEngine
    tokenizer: PreTrainedTokenizerBase
    template: Template
    batcher: Batcher
    context: int
    encoding: ThreadPoolExecutor

    async def start(self, asked: Asked) -> Answers:
        """Submits a request.

        Raises:
            Refusal: A prompt is empty or too long, or the queue is full.
        """
        loop = asyncio.get_running_loop()
        prompts = await loop.run_in_executor(self.encoding, self.encode, asked.prompts)
        limits = [self.limit_of(prompt, asked) for prompt in prompts]
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        repeated = [prompt for prompt in prompts for _ in range(asked.choices)]
        seeds = prompt_seeds(repeated, seed)
        answers = Answers(asked, self.tokenizer, self.batcher)
        answers.prompt_tokens = sum(map(len, prompts))
        at_once = not asked.is_stream and not asked.stops
        jobs = []
        for index, (prompt, own_seed) in enumerate(zip(repeated, seeds, strict=True)):
            choice = Choice(index, answers, at_once=at_once)
            request = Request([*self.engine.virtual, *prompt], asked.settings, own_seed)
            choice.job = Job(request, limits[index // asked.choices], choice.receive, at_once=at_once)
            answers.choices.append(choice)
            jobs.append(choice.job)
        self.batcher.submit(jobs)
        return answers

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Ids of the prompts.

        Raises:
            Refusal: The template has no place for a turn.
        """
        try:
            return [
                prompt if isinstance(prompt, list) else self.template.prompts_ids([prompt])[0]
                for prompt in prompts
            ]
        except ValueError as error:
            raise Refusal(422, f"the template cannot render this: {error}", code="invalid_value") from error

    def limit_of(self, prompt: Sequence[int], asked: Asked) -> int:
        """Most tokens of the answer to a prompt.

        Raises:
            Refusal: There is no room for it.
        """
        if not prompt:
            raise Refusal(422, f"{asked.field} has no tokens", param=asked.field, code="invalid_value")
        used = len(prompt)
        wanted = asked.settings.max_new_tokens
        room = self.context - used
        if room < 1 or (asked.wants_tokens and wanted > room):
            more = (
                f" and asks for {wanted} more" if asked.wants_tokens else " and leaves no room for an answer"
            )
            raise Refusal(
                400,
                f"This model's maximum context length is {self.context} tokens. However, your prompt has "
                f"{used} tokens{more}; shorten it" + (" or ask for fewer" if asked.wants_tokens else ""),
                param=asked.field,
                code="context_length_exceeded",
            )
        return min(wanted, room)
