"""Connections of clients that send nothing, or read nothing, do not stay."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from medtune.serving.errors import Refusal


class Connection(H11Protocol):
    """uvicorn's, with a limit to its number, its silence, and what waits to be read by the client.

    Between two requests uvicorn's own limit for idle connections holds.
    """

    seconds = 30.0
    most = 512

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.silence: asyncio.TimerHandle | None = None
        self.unread: asyncio.TimerHandle | None = None
        self.is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for a request, or refuses it unseen."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.is_refused = True
            self._answer_raw(
                Refusal(
                    503,
                    f"{self.most} connections are open (serve.max_connections)",
                    code="too_many_connections",
                )
            )
            return
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the timers."""
        stop(self.silence)
        stop(self.unread)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on; the wait ends with a request's last header."""
        if self.is_refused:
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            stop(self.silence)

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        self._wait_for_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is written to."""
        super().pause_writing()
        stop(self.unread)
        self.unread = self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        stop(self.unread)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an error in the API's form too; behind a request that is answered, nothing."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
            return
        self._answer_raw(Refusal(400, msg, code="invalid_http"))

    def _wait_for_request(self) -> None:
        stop(self.silence)
        self.silence = self.loop.call_later(self.seconds, self._end_silence)

    def _end_silence(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _answer_raw(self, refusal: Refusal) -> None:
        """Answers beside the HTTP library, which knows of no request."""
        phrase = {400: "Bad Request", 503: "Service Unavailable"}[refusal.status]
        body = json.dumps(refusal.to_dict()).encode()
        head = (
            f"HTTP/1.1 {refusal.status} {phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def stop(timer: asyncio.TimerHandle | None) -> None:
    """Cancels a timer, if there is one."""
    if timer is not None:
        timer.cancel()


def connection_class(seconds: float, most: int) -> type[Connection]:
    """The connections of one server.

    Args:
        seconds: For a client to send a request's headers, or to take what was sent.
        most: Open at a time.
    """
    return type("LimitedConnection", (Connection,), {"seconds": seconds, "most": most})
