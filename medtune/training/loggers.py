"""Builders for the ``logger`` node. ``metrics.jsonl`` is always written; these come on top of it."""

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medtune.config.instantiate import instantiate
from medtune.config.schema import Config
from medtune.runtime.record import RunFolder

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

SECRET_WORDS = ("key", "token", "secret", "password")
SHOWN_ROWS = 64  # of a table as text
CELL_CHARS = 300


def build_loggers(config: Config, folder: RunFolder) -> "list[Logger]":
    """The configured loggers, told about this run."""
    return [instantiate(node, config=config, folder=folder) for node in config.logger.values()]


def wandb(
    config: Config,
    folder: RunFolder,
    project: str = "medtune",
    entity: str | None = None,
    mode: str | None = None,
) -> "Logger":
    """Weights & Biases, with its files in the run folder; tokens on the x-axis.

    Args:
        config: The settled configuration; shown in the run without secrets.
        folder: The run folder.
        project: Project on the server.
        entity: Team or user. None: the default of the API key.
        mode: ``online``, ``offline`` or ``disabled``. None: ``WANDB_MODE``, else online when there is an
            API key and the server can be reached, else offline; it never asks.
    """
    from lightning.pytorch.loggers import WandbLogger

    mode = mode or os.environ.get("WANDB_MODE") or reachable_mode()
    folder.path.mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        name=config.name,
        id=run_id(folder.path),
        project=project,
        entity=entity,
        mode=mode,
        save_dir=str(folder.path),
        log_model=False,
        group=config.group,
        tags=config.tags,
        config=without_secrets(asdict(config)),
        resume="allow" if mode == "online" else None,
    )
    if is_global_zero():
        logger.experiment.define_metric("*", step_metric="train/tokens")
    return logger


def tensorboard(config: Config, folder: RunFolder) -> "Logger":
    """TensorBoard event files in ``RUN_DIR/tensorboard``."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=str(folder.path), name="tensorboard", version="")


def log_table(
    logger: Any, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Shows a table in a logger that has a way to: Weights & Biases as its own, TensorBoard as text."""
    if hasattr(logger, "log_table"):
        logger.log_table(key=name, columns=list(columns), data=[list(row) for row in rows], step=step)
    elif hasattr(logger.experiment, "add_text"):
        lines = [columns, ["---"] * len(columns), *rows[:SHOWN_ROWS]]
        text = "\n".join("| " + " | ".join(map(as_cell, line)) + " |" for line in lines)
        logger.experiment.add_text(name, text, step)


def as_cell(value: Any) -> str:
    """A value as a cell of a Markdown table: one line, and not longer than one reads."""
    text = " ".join(str(value).replace("|", "\\|").split())
    return text if len(text) <= CELL_CHARS else text[:CELL_CHARS] + "…"


def reachable_mode() -> str:
    """``online`` when there is an API key and the server answers, else ``offline``; logs the reason."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or "api.wandb.ai"
    if not has_api_key(host):
        log.info("wandb: no API key (WANDB_API_KEY or `wandb login`), so the run is kept offline")
        return "offline"
    proxied = any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"))
    if not proxied and not answers(host):
        log.info("wandb: %s cannot be reached, so the run is kept offline; `wandb sync` sends it later", host)
        return "offline"
    return "online"


def has_api_key(host: str) -> bool:
    """Whether wandb would find a key without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return file.is_file() and netrc(file).authenticators(host) is not None
    except (NetrcParseError, OSError):
        return False


def answers(host: str, port: int = 443, seconds: float = 3.0) -> bool:
    """Whether a connection can be opened."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def run_id(path: Path) -> str:
    """The same id for the same run folder, so that a resumed run goes on in its own curve."""
    import hashlib

    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]


def without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """A copy without the strings under keys that name a secret; ``vocab`` numbers and the like stay."""
    clean: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            clean[key] = without_secrets(value)
        elif not (isinstance(value, str) and key.lower().endswith(SECRET_WORDS)):
            clean[key] = value
    return clean


def is_global_zero() -> bool:
    """Whether this is rank zero, before any process group exists."""
    return os.environ.get("RANK", "0") == "0"
