"""The routes, as an ASGI application."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from medtune.config.schema import ServeConfig
from medtune.serving.answers import Answerer, Answers, Gone
from medtune.serving.asked import Asked, Limits, read_chat, read_completion, read_worker
from medtune.serving.errors import Refusal, timed_out
from medtune.serving.fields import parse_object
from medtune.serving.gate import Gate, send_json, send_refusal, to_json
from medtune.serving.metrics import CONTENT_TYPE, Metrics
from medtune.serving.replies import ChatReply, CompletionReply, Reply, WorkerReply

Handler = Callable[[Request], Awaitable[Response]]
Reader = Callable[[Mapping[str, Any], Limits], Asked]
CLOSE = {"Connection": "close"}  # what the client still sends is not read


@dataclass
class Loaded:
    """What there is once the model is."""

    answerer: Answerer
    limits: Limits


class Application:
    """Routes, and what they share.

    Attributes:
        asgi: What the HTTP server calls.
        loaded: None until the model is there.
    """

    def __init__(self, settings: ServeConfig, model: str, key: str | None) -> None:
        self.settings = settings
        self.model = model
        self.created = int(time.time())
        self.metrics = Metrics()
        self.loaded: Loaded | None = None
        routes = [
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.show_metrics, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.one_model, methods=["GET"]),
            Route("/v1/chat/completions", self.route(read_chat, ChatReply), methods=["POST"]),
            Route("/v1/completions", self.route(read_completion, CompletionReply), methods=["POST"]),
        ]
        if settings.worker_routes:
            routes += [
                Route("/worker_generate", self.route(read_worker, WorkerReply), methods=["POST"]),
                Route("/worker_get_status", self.worker_status, methods=["GET"]),
            ]
        inner = Starlette(routes=routes, exception_handlers={HTTPException: refuse_route, Refusal: refuse})
        inner.router.redirect_slashes = False
        origins = tuple(settings.cors_origins)
        paths = tuple(route.path for route in routes if "{" not in route.path)
        self.gate = Gate(inner, self.metrics, paths=paths, key=key, origins=origins)
        self.asgi: ASGIApp = self.gate
        if origins:
            self.asgi = CORSMiddleware(
                self.gate,
                allow_origins=origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
            )

    async def health(self, request: Request) -> Response:
        """200 when requests are answered, 503 before and after."""
        del request
        state = self.gate.state
        return Json({"status": "ok" if state == "ready" else state}, 200 if state == "ready" else 503)

    async def show_metrics(self, request: Request) -> Response:
        """Prometheus' text."""
        del request
        batcher = self.loaded.answerer.batcher if self.loaded else None
        return PlainTextResponse(
            self.metrics.text(batcher, self.gate.state), headers={"content-type": CONTENT_TYPE}
        )

    async def models(self, request: Request) -> Response:
        """The one model."""
        del request
        return Json({"object": "list", "data": [self.card()]})

    async def one_model(self, request: Request) -> Response:
        """The model by its name."""
        name = request.path_params["name"]
        if name != self.model:
            raise Refusal(
                404, "there is no such model; /v1/models lists it", param="model", code="model_not_found"
            )
        return Json(self.card())

    def card(self) -> dict[str, Any]:
        """What the API says of the model."""
        card: dict[str, Any] = {
            "id": self.model,
            "object": "model",
            "created": self.created,
            "owned_by": "medtune",
        }
        if self.loaded:
            card["max_model_len"] = self.loaded.answerer.context
        return card

    async def worker_status(self, request: Request) -> Response:
        """How busy the old route is."""
        del request
        batcher = self.ready().answerer.batcher
        return Json({"model_names": [self.model], "queue_length": len(batcher.running) + batcher.waiting})

    def ready(self) -> Loaded:
        """What is loaded; the gate lets nobody through before."""
        assert self.loaded is not None
        return self.loaded

    def route(self, read: Reader, reply: type[Reply]) -> Handler:
        """A route that answers prompts."""

        async def handle(request: Request) -> Response:
            loaded = self.ready()
            try:
                body = await read_body(request, self.settings)
            except ClientDisconnect:
                return Gone499()
            asked = read(parse_object(body), loaded.limits)
            deadline = asyncio.get_running_loop().time() + self.settings.request_timeout
            answers = await loaded.answerer.start(asked)
            return Answering(answers, reply(answers, self.model), deadline, self)

        return handle


class Json(Response):
    """A JSON body of our own spelling."""

    def __init__(
        self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(to_json(content), status_code, headers, "application/json")


class Gone499(Response):
    """Nothing, for a client that is not there any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends nothing."""


class Answering(Response):
    """Sends the answers, whole or as they come, and takes them out of the batch when the client goes away."""

    def __init__(self, answers: Answers, reply: Reply, deadline: float, app: Application) -> None:
        self.answers = answers
        self.reply = reply
        self.deadline = deadline
        self.app = app
        self.is_open = False  # the head of the response has been sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        watch = asyncio.create_task(leave_when_gone(self.answers, receive))
        send_all = self._stream if self.answers.asked.is_stream else self._whole
        try:
            async with asyncio.timeout_at(self.deadline):
                await send_all(send)
        except Gone:
            scope["gone"] = 499
        except TimeoutError:
            await self._refuse(timed_out(self.app.settings.request_timeout), send)
        except Refusal as refusal:
            await self._refuse(refusal, send)
        finally:
            self.answers.cancel()
            watch.cancel()
            if self.answers.first_token_at is not None:
                self.app.metrics.first_token.add(self.answers.first_token_at - scope["started"])
            self.app.metrics.duration.add(time.monotonic() - scope["started"])

    async def _whole(self, send: Send) -> None:
        texts = [""] * len(self.answers.choices)
        finishes = [""] * len(self.answers.choices)
        async for pieces in self.answers.pieces():
            for piece in pieces:
                texts[piece.index] += piece.text
                finishes[piece.index] = piece.finish or ""
        await send_json(self.reply.whole(texts, finishes), send)

    async def _stream(self, send: Send) -> None:
        async for pieces in self.answers.pieces():
            lines = [] if self.is_open else [await self._open(send)]
            lines += [self.reply.line(part) for piece in pieces for part in self.reply.parts(piece)]
            await send_part("".join(lines), send)
        end = "".join(map(self.reply.line, self.reply.last_parts())) + self.reply.mark_of_end
        await send_part(end, send, more=False)

    async def _open(self, send: Send) -> str:
        """Sends the head of the response; gives the first lines of its body."""
        headers = [
            (b"content-type", self.reply.content_type),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx would hold the pieces back
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self.is_open = True
        return "".join(map(self.reply.line, self.reply.first_parts()))

    async def _refuse(self, refusal: Refusal, send: Send) -> None:
        """Sends an error: in place of the answer, or in its middle."""
        if not self.is_open:
            await send_refusal(refusal, send)
            return
        try:
            # A client that does not read is given up on.
            async with asyncio.timeout(1):
                await send_part(self.reply.line(self.reply.error(refusal)), send, more=False)
        except TimeoutError:
            return


async def leave_when_gone(answers: Answers, receive: Receive) -> None:
    """Ends the answers when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answers.leave()
    answers.cancel()


async def send_part(text: str, send: Send, *, more: bool = True) -> None:
    """Sends a part of the body."""
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


async def read_body(request: Request, settings: ServeConfig) -> bytes:
    """The body, within its limits of size and time.

    Raises:
        Refusal: It is not JSON by its type, too large, or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(
            415,
            "send the header 'Content-Type: application/json'",
            code="unsupported_media_type",
            headers=CLOSE,
        )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > settings.max_body_bytes:
        raise too_large(settings)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.client_timeout):
            async for part in request.stream():
                body += part
                if len(body) > settings.max_body_bytes:
                    raise too_large(settings)
    except TimeoutError as error:
        raise Refusal(
            408, f"the body was not there after {settings.client_timeout:g} s", code="timeout", headers=CLOSE
        ) from error
    return bytes(body)


def too_large(settings: ServeConfig) -> Refusal:
    """A body beyond the limit."""
    return Refusal(
        413,
        f"the body is larger than {settings.max_body_bytes} bytes (serve.max_body_bytes)",
        code="body_too_large",
        headers=CLOSE,
    )


async def refuse_route(request: Request, error: Exception) -> Response:
    """No such route, or not by this method."""
    assert isinstance(error, HTTPException)
    what = {404: "there is no such path", 405: f"{request.method} is not allowed here"}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    refusal = Refusal(error.status_code, what.get(error.status_code, error.detail), code=code)
    return Json(refusal.to_dict(), refusal.status, error.headers)


async def refuse(request: Request, error: Exception) -> Response:
    """A refusal, as a response."""
    del request
    assert isinstance(error, Refusal)
    return Json(error.to_dict(), error.status, error.headers)
