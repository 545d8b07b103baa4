"""The HTTP server in a thread of its own, beside the one that runs the model."""

import asyncio
import errno
import logging
import socket
import threading
import time
from typing import Any

import uvicorn

from medtune.config.schema import ServeConfig
from medtune.runtime.errors import ConfigError
from medtune.serving.app import Application
from medtune.serving.connections import connection_class

START_SECONDS = 30.0
LAST_SECONDS = 3  # for the last bytes to reach their clients
IDLE_SECONDS = 5  # of a connection between two requests

log = logging.getLogger(__name__)


def listen(settings: ServeConfig) -> socket.socket:
    """A socket at ``serve.host`` and ``serve.port``; at once, so that a port that is taken is told early.

    Raises:
        ConfigError: It cannot be had.
    """
    host, port = settings.host, settings.port
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConfigError(f"serve.host={host} is no address of this machine: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(refusal_of_port(host, port, error)) from error
    return listener


def refusal_of_port(host: str, port: int, error: OSError) -> str:
    """Why there is no socket, and what to set."""
    if error.errno == errno.EADDRINUSE:
        return f"serve.port={port} is taken at {host}; set another one, or serve.port=0 for a free one"
    if error.errno == errno.EACCES:
        return f"serve.port={port} may not be opened by this user; set one above 1023"
    return f"serve.host={host} serve.port={port}: {error.strerror}"


def url_of(listener: socket.socket) -> str:
    """Where clients find the server."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HTTPServer:
    """uvicorn in a thread.

    Attributes:
        loop: The event loop of the thread, once it has started.
    """

    def __init__(self, app: Application, listener: socket.socket) -> None:
        settings = app.settings
        self.listener = listener
        self.loop: asyncio.AbstractEventLoop | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                app.asgi,
                loop="asyncio",
                http=connection_class(settings.client_timeout, settings.max_connections),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=LAST_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Starts the thread and waits until it accepts connections."""
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the HTTP server did not start; the log says why")
            time.sleep(0.005)

    def call(self, function: Any, *arguments: Any) -> None:
        """Calls a function in the server's thread."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """Lets the last bytes out, closes all connections and ends the thread."""
        self._server.should_exit = True
        self._thread.join(LAST_SECONDS + 2)
        self.listener.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            log.exception("the HTTP server failed")

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self.listener])
