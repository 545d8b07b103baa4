"""The server and the model together, from the first byte to the last."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

from medtune.config.schema import Config, ServeConfig
from medtune.generation.engine import TransformersEngine
from medtune.generation.responder import Responder
from medtune.models.load import embedding_rows
from medtune.runtime.errors import ConfigError, Interrupted
from medtune.serving.answers import Answerer
from medtune.serving.app import Application, Loaded
from medtune.serving.asked import Limits
from medtune.serving.batcher import Batcher
from medtune.serving.server import HTTPServer, listen, url_of

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The model's thread asks for the interpreter hundreds of times per step; by default the other one may keep it
# for 5 ms each time.
SWITCH_SECONDS = 0.0005

log = logging.getLogger(__name__)


class Service:
    """Listens at once, answers when a model is given to it, and ends when it is told to.

    The caller's thread runs the model; another one speaks HTTP.

    Raises:
        ConfigError: The port cannot be had, or the variable of the key holds none.
    """

    def __init__(self, config: Config) -> None:
        self.settings = config.serve
        self.model = config.serve.model_name or config.model.name
        self.app = Application(config.serve, self.model, read_key(config.serve))
        self.listener = listen(config.serve)
        self.url = url_of(self.listener)
        self.http = HTTPServer(self.app, self.listener)
        self.should_stop = False

    def start(self) -> None:
        """Accepts requests, and answers them with 503."""
        self.http.start()
        log.info("listening at %s; requests get 503 until the model is loaded", self.url)

    def load(self, responder: Responder) -> Batcher:
        """Makes a model ready to answer; requests are taken in from now on."""
        engine, settings = responder.engine, self.settings
        assert isinstance(engine, TransformersEngine)
        most = settings.max_batch_tokens - len(engine.virtual)
        context = min(engine.context or most, most)
        batcher = Batcher(
            engine,
            max_rows=settings.max_batch_rows,
            max_tokens=settings.max_batch_tokens,
            max_queue=settings.max_queue,
            call=self.http.call,
        )
        encoding = ThreadPoolExecutor(1, thread_name_prefix="encoding")
        answerer = Answerer(engine, responder.tokenizer, responder.template, batcher, context, encoding)
        limits = Limits(
            self.model,
            responder.settings,
            max_tokens=min(settings.max_tokens or context, context),
            max_choices=settings.max_batch_rows,
            vocabulary=min(len(responder.tokenizer), embedding_rows(engine.model)),
        )
        self.app.loaded = Loaded(answerer, limits)
        if not self.should_stop:
            self.app.gate.state = "ready"
        return batcher

    def answer(self, batcher: Batcher) -> None:
        """Answers until :meth:`stop`."""
        batcher.run(lambda: self.should_stop, self.settings.shutdown_timeout)

    def stop(self) -> None:
        """Lets no request in any more; those that run may end. To be called from any thread, or a signal."""
        self.app.gate.state = "stopping"
        self.should_stop = True

    def close(self) -> None:
        """Ends the HTTP server."""
        self.app.gate.state = "stopping"
        self.http.stop()
        if self.app.loaded is not None:
            self.app.loaded.answerer.encoding.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the service in good order, or, while the model is loaded, at once."""

        def receive(number: int, frame: FrameType | None) -> None:
            if self.app.gate.state == "loading":
                self.app.gate.state = "stopping"
                raise Interrupted(number, "while the model was loaded")
            if not self.should_stop:
                log.info(
                    "%s: running answers have %g s to end",
                    signal.Signals(number).name,
                    self.settings.shutdown_timeout,
                )
            self.stop()

        previous = {number: signal.signal(number, receive) for number in SIGNALS}
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            yield
        finally:
            sys.setswitchinterval(interval)
            for number, handler in previous.items():
                signal.signal(number, handler)


def read_key(settings: ServeConfig) -> str | None:
    """The API key, from its environment variable.

    Raises:
        ConfigError: It is empty, or could not be sent in a header.
    """
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key:
        raise ConfigError(f"serve.api_key_env={settings.api_key_env}: this variable is not set, or empty")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"serve.api_key_env={settings.api_key_env}: the key must be printable ASCII")
    return key
