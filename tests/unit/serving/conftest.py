"""A live server over a tiny model, in threads of this process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from medtune.config.schema import Config, ModelConfig, ServeConfig, TemplateConfig
from medtune.data.tokens.templates import Template
from medtune.generation.engine import TransformersEngine
from medtune.generation.responder import Responder
from medtune.generation.settings import SamplingSettings
from medtune.serving.service import Service

TEMPLATE = TemplateConfig(system=["{system}\n"], prompt=["q: {prompt}\na: "], separator=["\n"])
POISON = "9"  # a prompt with this character makes the model fail


class Pace:
    """What happens before each forward of the model: a wait, and a failure at a poisoned prompt."""

    def __init__(self, poison: int) -> None:
        self.poison = poison
        self.seconds = 0.0

    def __call__(self, module: torch.nn.Module, arguments: object, kwargs: dict[str, torch.Tensor]) -> None:
        time.sleep(self.seconds)
        if kwargs["input_ids"].shape[1] > 1 and (kwargs["input_ids"] == self.poison).any():
            raise RuntimeError("the device is out of memory")


@pytest.fixture(scope="session")
def responder(make_tiny_llama, tiny_tokenizer) -> Responder:
    """In float64, so that the rows beside one cannot change a token that is drawn; 256 tokens of context."""
    engine = TransformersEngine.from_tokenizer(make_tiny_llama(scale=4.0).double(), tiny_tokenizer)
    template = Template.from_tokenizer(TEMPLATE, tiny_tokenizer)
    return Responder(engine, tiny_tokenizer, template, SamplingSettings(max_new_tokens=24))


@pytest.fixture
def pace(responder, tiny_tokenizer) -> Iterator[Pace]:
    """Slows the model down."""
    hook = Pace(tiny_tokenizer.convert_tokens_to_ids(POISON))
    handle = responder.engine.model.register_forward_pre_hook(hook, with_kwargs=True)
    yield hook
    handle.remove()


@contextmanager
def serve(responder: Responder, **settings: object) -> Iterator[Service]:
    """A server that answers; it ends in good order."""
    config = Config(model=ModelConfig(name="tiny"), serve=ServeConfig(port=0, **settings))
    service = Service(config)
    service.start()
    thread = threading.Thread(target=service.answer, args=[service.load(responder)])
    thread.start()
    try:
        while service.app.gate.state == "loading":
            time.sleep(0.001)
        yield service
    finally:
        service.stop()
        thread.join(60)
        service.close()


@pytest.fixture(scope="session")
def serving(responder) -> Callable[..., AbstractContextManager[Service]]:
    """``serving(**settings)`` of ``serve``."""
    return lambda **settings: serve(settings.pop("responder", responder), **settings)


@pytest.fixture(scope="session")
def server(responder) -> Iterator[Service]:
    """One server for the tests that need nothing special."""
    with serve(responder, max_body_bytes=20_000, worker_routes=True) as service:
        yield service
