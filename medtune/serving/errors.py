"""What a client is told when it gets no answer, in the form of OpenAI's API."""

from collections.abc import Mapping
from typing import Any

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}
RETRY_SECONDS = 1


class Refusal(Exception):
    """A request that gets an error in place of an answer.

    Attributes:
        status: Of HTTP.
        param: The field that is wrong.
        code: A word for programs.
        headers: Beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def to_dict(self) -> dict[str, Any]:
        """The body of the response."""
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def wrong_field(name: str, what: str) -> Refusal:
    """A field that is there and cannot be used."""
    return Refusal(422, f"{name} {what}", param=name, code="invalid_value")


def too_busy(waiting: int, most: int) -> Refusal:
    """The queue is full."""
    return Refusal(
        429,
        f"{waiting} answers wait already, of at most {most} (serve.max_queue); try again",
        code="queue_full",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def unavailable(state: str) -> Refusal:
    """The server is not up yet, or not any more."""
    why = {"loading": "the model is being loaded", "stopping": "the server is shutting down"}[state]
    return Refusal(503, f"{why}; try again", code=state, headers={"Retry-After": str(RETRY_SECONDS)})


def timed_out(seconds: float) -> Refusal:
    """The answer took too long."""
    return Refusal(
        503, f"the answer was not complete after {seconds:g} s (serve.request_timeout)", code="timeout"
    )


def failed() -> Refusal:
    """The model, or we, failed; the cause is in the server's log, since it may speak of other requests."""
    return Refusal(500, "the server failed at this request; its log says why", code="internal_error")
