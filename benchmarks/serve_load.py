"""Clients of ``task=serve`` that know every right answer: well-behaved ones, and all kinds of others.

A client is a few lines over asyncio's streams, so that the load costs less than the server.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATIENCE_SECONDS = 120.0
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class Question:
    """A request and its one right answer.

    Attributes:
        body: Of ``/v1/chat/completions``, without ``stream``.
        answer: The text that the model gives when it is asked alone.
        tokens: Of the answer.
    """

    body: Mapping[str, Any]
    answer: str
    tokens: int


@dataclass
class Tally:
    """What happened."""

    requests: int = 0
    tokens: int = 0
    answered: int = 0
    left: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    first_token_seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Reply:
    """An HTTP response whose body is read as it comes."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def whole(self) -> bytes:
        """The body."""
        if "content-length" in self.headers:
            return await self.reader.readexactly(int(self.headers["content-length"]))
        return b"".join([part async for part in self.parts()])

    async def parts(self) -> Any:
        """The chunks of a stream."""
        while size := int(await self.reader.readline(), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readline()

    def leave(self) -> None:
        """Hangs up."""
        self.writer.transport.abort()


async def post(url: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
    """Sends a request; gives the response when its headers are there."""
    lines = {"Host": "localhost", "Connection": "close", "Content-Type": "application/json"}
    lines |= {"Content-Length": str(len(body)), **(headers or {})}
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return await send(url, head.encode() + b"\r\n" + body)


async def send(url: str, data: bytes) -> Reply:
    """Sends bytes to the server and reads the head of what it answers."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(data)
        status = int((await reader.readline()).split()[1])
        headers = {}
        while line := (await reader.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
    except BaseException:  # a client that is cancelled hangs up
        writer.transport.abort()
        raise
    return Reply(status, headers, reader, writer)


async def get(url: str, path: str) -> bytes:
    """The body of a GET."""
    reply = await send(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    try:
        return await reply.whole()
    finally:
        reply.leave()


async def metrics(url: str) -> dict[str, float]:
    """The server's own counts."""
    lines = (await get(url, "/metrics")).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def ask(url: str, question: Question, tally: Tally, *, stream: bool, leave_after: int = 0) -> None:
    """Asks, and compares the answer; with ``leave_after`` hangs up after so many events of a stream."""
    started = time.monotonic()
    reply = await post(url, CHAT, json.dumps({**question.body, "stream": stream}).encode())
    tally.statuses[reply.status] += 1
    try:
        if reply.status != 200:
            if reply.status != 429:
                tally.wrong.append(f"status {reply.status} for a right request: {await reply.whole()!r}")
            else:
                await asyncio.sleep(0.2)
            return
        if not stream:
            content = json.loads(await reply.whole())
            text, usage = content["choices"][0]["message"]["content"], content["usage"]
            if usage["completion_tokens"] != question.tokens:
                tally.wrong.append(f"{usage} for {question.tokens} tokens")
            compare(text, question, tally)
            return
        await read_stream(reply, question, tally, started, leave_after)
    finally:
        reply.leave()


async def read_stream(
    reply: Reply, question: Question, tally: Tally, started: float, leave_after: int
) -> None:
    """Reads server-sent events."""
    text, events, buffer = "", 0, b""
    async for part in reply.parts():
        if not events:
            tally.first_token_seconds.append(time.monotonic() - started)
        *lines, buffer = (buffer + part).split(b"\n\n")
        for line in lines:
            events += 1
            if line == b"data: [DONE]":
                compare(text, question, tally)
                return
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                tally.wrong.append(f"an error in a stream: {event}")
                return
            text += event["choices"][0]["delta"].get("content", "")
        if leave_after and events >= leave_after:
            tally.left += 1
            if not question.answer.startswith(text):
                tally.wrong.append(f"{text!r} does not begin {question.answer!r}")
            return
    tally.wrong.append("a stream without an end")


def compare(text: str, question: Question, tally: Tally) -> None:
    """Counts a right answer, or keeps a wrong one."""
    if text == question.answer:
        tally.answered += 1
        tally.tokens += question.tokens
    else:
        tally.wrong.append(f"{text!r} in place of {question.answer!r} for {question.body}")


def hostile_requests(model: str, too_long: str, most_bytes: int) -> list[tuple[str, bytes, int]]:
    """(path, body, due status) of requests that must be refused.

    Args:
        model: That is served.
        too_long: A prompt that does not fit the context.
        most_bytes: Largest body; 20,000 at least.
    """

    def chat(**more: Any) -> bytes:
        messages = [{"role": "user", "content": "x"}]
        return json.dumps({"model": model, "messages": messages, **more}).encode()

    return [
        (CHAT, b"", 400),
        (CHAT, b"{", 400),
        (CHAT, b"[1]", 400),
        (CHAT, b"\xff\xfe", 400),
        (CHAT, b"[" * 15_000, 400),
        (CHAT, b'{"messages":' * 1500, 400),
        (CHAT, chat(temperature="TOO").replace(b'"TOO"', b"NaN"), 400),
        (CHAT, chat(temperature=1).replace(b": 1}", b": 1e999}"), 422),
        (CHAT, chat(seed=1).replace(b": 1}", b": 1" + b"0" * 400 + b"}"), 422),
        (CHAT, chat(seed=1).replace(b": 1}", b": 1" + b"0" * 9000 + b"}"), 400),
        (CHAT, chat(messages=[{"role": "user", "content": "\ud800"}]), 422),
        (CHAT, chat(messages=[{"role": "user", "content": too_long}]), 400),
        (CHAT, chat(messages=[]), 422),
        (CHAT, chat(messages="x"), 422),
        (CHAT, chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), 422),
        (CHAT, chat(model="another"), 404),
        (CHAT, chat(max_tokens=10**9), 422),
        (CHAT, chat(top_p=0), 422),
        (CHAT, chat(n=True), 422),
        (CHAT, chat(tools=[{"type": "function"}]), 422),
        (CHAT, chat(no_such_field=1), 422),
        (CHAT, b" " * (most_bytes + 1), 413),
        ("/v1/no/such/path", chat(), 404),
        ("/health", chat(), 405),
        (COMPLETIONS, json.dumps({"model": model, "prompt": [10**9]}).encode(), 422),
    ]


async def be_hostile(url: str, request: tuple[str, bytes, int], tally: Tally) -> None:
    """Sends what must be refused."""
    path, body, due = request
    try:
        reply = await post(url, path, body)
    except (ConnectionError, IndexError, asyncio.IncompleteReadError):
        if due != 413:  # the connection may be gone before the last byte was sent
            raise
        return
    tally.statuses[reply.status] += 1
    try:
        content = json.loads(await reply.whole())
        if reply.status != due or set(content["error"]) != {"message", "type", "param", "code"}:
            tally.wrong.append(f"{reply.status} {content} in place of {due} for {body[:80]!r}")
    finally:
        reply.leave()


async def break_off(url: str, rng: random.Random) -> None:
    """Hangs up in the middle of a request, or sends what is no HTTP."""
    place = urlsplit(url)
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    data = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{{"
    )
    writer.write(
        rng.choice([data.encode(), data[: len(data) // 2].encode(), b"\x16\x03\x01 no http\r\n\r\n"])
    )
    await writer.drain()
    await asyncio.sleep(rng.random() / 20)
    writer.transport.abort()


@dataclass(frozen=True)
class Load:
    """What the clients do.

    Attributes:
        clients: At a time.
        seconds: How long.
        hostile: Share of requests that are broken off, malformed or too long; 0: a plain load.
        streams: Share of streams among the others.
    """

    clients: int
    seconds: float
    hostile: float = 0.0
    streams: float = 0.7
    seed: int = 0


async def run_load(
    url: str, load: Load, questions: Sequence[Question], refused: Sequence[tuple[str, bytes, int]] = ()
) -> Tally:
    """Keeps clients busy; every answer is compared."""
    tally = Tally()
    end = time.monotonic() + load.seconds

    async def client(number: int) -> None:
        rng = random.Random(f"{load.seed} {number}")
        while time.monotonic() < end:
            tally.requests += 1
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await request(rng)
            except TimeoutError:
                tally.wrong.append(f"no answer within {PATIENCE_SECONDS:g} s")

    async def request(rng: random.Random) -> None:
        question = rng.choice(questions)
        if rng.random() >= load.hostile:
            await ask(url, question, tally, stream=rng.random() < load.streams)
            return
        kind = rng.randrange(3)
        if kind == 0:
            await be_hostile(url, rng.choice(refused), tally)
        elif kind == 1:
            await break_off(url, rng)
        else:
            await ask(url, question, tally, stream=True, leave_after=rng.randint(1, 20))

    await asyncio.gather(*(client(number) for number in range(load.clients)))
    return tally


async def until_idle(url: str, seconds: float = 10.0) -> dict[str, float]:
    """The server's counts when no row is left; after ``seconds`` as they are."""
    deadline = time.monotonic() + seconds
    while True:
        counts = await metrics(url)
        busy = counts["medtune_batch_rows"] + counts["medtune_queue_rows"]
        # The request for the counts is open itself.
        if (not busy and counts["medtune_requests_open"] == 1) or time.monotonic() > deadline:
            return counts
        await asyncio.sleep(0.05)
