"""What every request passes before a route sees it: state, origin, key; and errors of what follows."""

import hmac
import json
import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medtune.serving.errors import Refusal, failed, unavailable
from medtune.serving.metrics import Metrics

OPEN_PATHS = ("/health",)  # without a key, and in every state
ALWAYS_ANSWERED = ("/health", "/metrics")

log = logging.getLogger(__name__)


class Gate:
    """Refuses who may not enter, counts what happened, and turns failures into errors of OpenAI's form.

    Args:
        app: What follows.
        metrics: Is told of every request.
        paths: The routes, by which requests are counted; whatever else is asked for is one ``other``.
        key: Which clients must send; None: none.
        origins: Web pages that may call.

    Attributes:
        state: ``loading``, ``ready`` or ``stopping``.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        paths: tuple[str, ...],
        key: str | None,
        origins: tuple[str, ...],
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = paths
        self.key = None if key is None else key.encode()
        self.origins = origins
        self.state = "loading"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":  # no lifespan, no websockets
            return
        status = 499  # nothing was sent: the client went away

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope["started"] = time.monotonic()
        self.metrics.open += 1
        try:
            self._check(scope)
            await self.app(scope, receive, watched_send)
        except Refusal as refusal:
            await send_refusal(refusal, watched_send)
        except Exception:
            log.exception("a request to %s failed", self._path(scope))
            if status == 499:
                await send_refusal(failed(), watched_send)
        finally:
            self.metrics.open -= 1
            self.metrics.requests[self._path(scope), scope.get("gone") or status] += 1

    def _path(self, scope: Scope) -> str:
        path = str(scope["path"])
        return path if path in self.paths else "other"

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        # A browser sends it with every POST from a page, ours or not: so a page of somebody else's cannot
        # reach a server on the reader's own machine, not even by a name that was bent to 127.0.0.1.
        if origin is not None and "*" not in self.origins and origin.decode("latin-1") not in self.origins:
            raise Refusal(
                403,
                "this server answers no page of this origin; serve.cors_origins lists those that may call",
                code="origin_not_allowed",
            )
        if scope["path"] not in OPEN_PATHS and not self._has_key(headers.get(b"authorization")):
            raise Refusal(
                401,
                "this server needs its API key: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if self.state != "ready" and scope["path"] not in ALWAYS_ANSWERED:
            raise unavailable(self.state)

    def _has_key(self, header: bytes | None) -> bool:
        if self.key is None:
            return True
        scheme, _, given = (header or b"").partition(b" ")
        # In constant time, so that nobody can guess it letter by letter.
        return hmac.compare_digest(given.strip(), self.key) and scheme.lower() == b"bearer"


async def send_refusal(refusal: Refusal, send: Send) -> None:
    """Sends an error; whatever else the client was going to send is not read."""
    await send_json(refusal.to_dict(), send, status=refusal.status, headers=refusal.headers)


async def send_json(
    content: Any, send: Send, *, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    """Sends a JSON body."""
    body = to_json(content).encode()
    lines = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def to_json(content: Any) -> str:
    """JSON on one line, by whatever rule lines are told apart; text stays readable."""
    text = json.dumps(content, ensure_ascii=False)
    return text if text.isascii() else text.translate(LINE_ENDS)


# Characters that some clients take for the end of a line, and JSON does not escape by itself.
LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
