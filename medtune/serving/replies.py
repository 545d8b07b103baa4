"""The bodies that clients get, whole and in parts, by route."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from medtune.serving.answers import Answers, Piece
from medtune.serving.errors import Refusal
from medtune.serving.gate import to_json


class Reply(Protocol):
    """How a route spells its answers."""

    content_type: bytes
    """Of a stream."""
    mark_of_end: str
    """What a stream ends with."""

    def __init__(self, answers: Answers, model: str) -> None: ...

    def whole(self, texts: Sequence[str], finishes: Sequence[str]) -> dict[str, Any]:
        """The body with all answers."""
        ...

    def first_parts(self) -> list[dict[str, Any]]:
        """What a stream begins with."""
        ...

    def parts(self, piece: Piece) -> list[dict[str, Any]]:
        """A piece of an answer."""
        ...

    def last_parts(self) -> list[dict[str, Any]]:
        """What follows the answers."""
        ...

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """A failure in the middle of a stream."""
        ...

    def line(self, part: dict[str, Any]) -> str:
        """A part as it is sent."""
        ...


class ServerSentEvents(ABC):
    """What the two routes of OpenAI's API have in common."""

    content_type = b"text/event-stream; charset=utf-8"
    mark_of_end = "data: [DONE]\n\n"
    prefix = object_ = object_in_stream = ""

    def __init__(self, answers: Answers, model: str) -> None:
        self.answers = answers
        self.about = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "object": self.object_,
            "created": int(time.time()),
            "model": model,
        }

    def line(self, part: dict[str, Any]) -> str:
        """An event."""
        return f"data: {to_json(part)}\n\n"

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """As clients expect it: an event with ``error``, and no mark of an end."""
        return refusal.to_dict()

    def usage(self) -> dict[str, int]:
        """Counts of tokens."""
        prompt, answer = self.answers.prompt_tokens, self.answers.tokens
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def part(self, index: int, finish: str | None, **content: Any) -> dict[str, Any]:
        """A part of a stream with one choice."""
        more = {"usage": None} if self.answers.asked.wants_usage else {}
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish}
        return {**self.about, "object": self.object_in_stream, "choices": [choice], **more}

    def last_parts(self) -> list[dict[str, Any]]:
        """The counts, where they are wanted."""
        if not self.answers.asked.wants_usage:
            return []
        return [{**self.about, "object": self.object_in_stream, "choices": [], "usage": self.usage()}]

    @abstractmethod
    def choice(self, text: str) -> dict[str, Any]:
        """An answer in the whole body."""

    def whole(self, texts: Sequence[str], finishes: Sequence[str]) -> dict[str, Any]:
        """The body with all answers."""
        choices = [
            {"index": index, **self.choice(text), "logprobs": None, "finish_reason": finish}
            for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))
        ]
        return {**self.about, "choices": choices, "usage": self.usage()}


class ChatReply(ServerSentEvents):
    """``/v1/chat/completions``."""

    prefix = "chatcmpl"
    object_ = "chat.completion"
    object_in_stream = "chat.completion.chunk"

    def choice(self, text: str) -> dict[str, Any]:
        """A message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def first_parts(self) -> list[dict[str, Any]]:
        """The role of each answer."""
        return [
            self.part(choice.index, None, delta={"role": "assistant", "content": ""})
            for choice in self.answers.choices
        ]

    def parts(self, piece: Piece) -> list[dict[str, Any]]:
        """The text, and the end apart from it, as OpenAI sends it."""
        parts = [self.part(piece.index, None, delta={"content": piece.text})] if piece.text else []
        if piece.finish is not None:
            parts.append(self.part(piece.index, piece.finish, delta={}))
        return parts


class CompletionReply(ServerSentEvents):
    """``/v1/completions``."""

    prefix = "cmpl"
    object_ = object_in_stream = "text_completion"

    def choice(self, text: str) -> dict[str, Any]:
        """A text."""
        return {"text": text}

    def first_parts(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def parts(self, piece: Piece) -> list[dict[str, Any]]:
        """Text and end together."""
        return [self.part(piece.index, piece.finish, text=piece.text)]


class WorkerReply:
    """``/worker_generate``: the whole answer, or a line of JSON for each piece of it."""

    content_type = b"application/x-ndjson; charset=utf-8"
    mark_of_end = ""

    def __init__(self, answers: Answers, model: str) -> None:
        del answers, model

    def whole(self, texts: Sequence[str], finishes: Sequence[str]) -> dict[str, Any]:
        """The one answer."""
        return {"message": texts[0], "finish_reason": finishes[0], "error_code": 0}

    def first_parts(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def parts(self, piece: Piece) -> list[dict[str, Any]]:
        """What comes next, and why it ended in the last line."""
        return [{"message": piece.text, "finish_reason": piece.finish, "error_code": 0}]

    def last_parts(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """A line with the error's code."""
        return {"message": refusal.message, "finish_reason": "error", "error_code": refusal.status}

    def line(self, part: dict[str, Any]) -> str:
        """A line."""
        return f"{to_json(part)}\n"
