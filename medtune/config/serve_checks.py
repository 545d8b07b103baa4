"""Rules of ``task=serve``: who may reach the server, and with what key."""

import ipaddress
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import urlsplit

from medtune.config.schema import Config

PACKAGES = ("starlette", "uvicorn")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def serve_problems(config: Config) -> Iterator[str]:
    """What speaks against starting the server."""
    if config.task != "serve":
        return
    serve = config.serve
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        yield f"task=serve needs {' and '.join(missing)}: pip install 'medtune[serve]'"
    yield from key_problems(serve.api_key_env)
    if not (is_loopback(serve.host) or serve.api_key_env or serve.allow_public):
        yield (
            f"serve.host={serve.host} lets other machines in without a key; set serve.api_key_env=VARIABLE, "
            "or serve.allow_public=true where something else keeps strangers out"
        )
    for origin in serve.cors_origins:
        if origin != "*" and not is_origin(origin):
            yield (
                f"serve.cors_origins: {origin} is no origin; write scheme, host and port alone, such as "
                "https://chat.example.org or http://localhost:3000"
            )
    if serve.model_name is not None and not serve.model_name.strip():
        yield "serve.model_name is empty; leave it out for model.name"


def key_problems(variable: str | None) -> Iterator[str]:
    """A variable that holds no key; its text is not shown, since it may be the key itself."""
    if variable is None:
        return
    if not VARIABLE.fullmatch(variable):
        yield (
            "serve.api_key_env must be the name of an environment variable (letters, digits, underscores), "
            "not the key itself: export MEDTUNE_API_KEY=..., and serve.api_key_env=MEDTUNE_API_KEY"
        )
    elif not os.environ.get(variable, "").strip():
        yield f"serve.api_key_env names a variable that is not set: export {variable}=..., or leave it out"


def one_process_problems(config: Config) -> Iterator[str]:
    """Several devices, of a task that is one process; asked before their number is settled."""
    devices = config.trainer.devices or 1
    if config.task == "serve" and devices > 1:
        yield (
            f"trainer.devices={devices}: task=serve is one process on one device, since all requests share "
            "one batch; set trainer.devices=1, and start a server per device with its own serve.port for more"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_origin(text: str) -> bool:
    """Whether ``text`` is what a browser sends as Origin."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc) and text == f"{parts.scheme}://{parts.netloc}"
