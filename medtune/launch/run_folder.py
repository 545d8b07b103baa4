"""Makes the run folder and writes into it what the worker reads."""

import fcntl
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import yaml

from medtune.config.inherit import differences, read_record
from medtune.config.load import config_to_dict, show
from medtune.config.schema import Config
from medtune.launch.elastic import EXIT_CODES
from medtune.runtime.errors import ConfigError
from medtune.runtime.hardware import environment_record
from medtune.runtime.record import LEFT_ASIDE, RunFolder, disk_error, remove_leftovers, write_json, write_text

OUTPUTS = Path("outputs")  # below the folder where the command was typed
HELD: dict[Path, int] = {}  # run folders that are locked, each by an open handle
PATIENCE_SECONDS = 10.0
PROBE_BYTES = 4096  # one block: on a full disk an empty file can still be made


def new_id() -> str:
    """A name that sorts by time and that two runs of the same second do not share."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def make_run_folder(config: Config) -> RunFolder:
    """Creates the run folder, or takes the one of the run that is continued.

    Raises:
        ConfigError: ``run_dir`` holds something already, is a file, is in use, or cannot be made or written.
    """
    path = Path(config.run_dir) if config.run_dir else OUTPUTS / folder_name(config.name) / new_id()
    folder = RunFolder(path.resolve())
    try:
        refuse_used(folder, resume=config.resume)
    except OSError as error:
        raise ConfigError(f"run_dir={folder.path} cannot be read: {error.strerror}") from error
    make_writable_folder(folder.path, exist_ok=config.run_dir is not None)
    hold(folder.path, patience=PATIENCE_SECONDS if config.resume == "auto" else 0)
    for place in (folder.path, folder.checkpoints):
        remove_leftovers(place)
    return folder


def hold(path: Path, *, patience: float) -> None:
    """Locks a run folder until :func:`release`; a worker that has the handle keeps the lock to its own end.

    Args:
        path: The folder.
        patience: Seconds to wait for the worker of a launcher that was killed, which still saves.

    Raises:
        ConfigError: Another run is at work in it.
    """
    if path in HELD:
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        lock(handle, time.monotonic() + patience)
    except BlockingIOError as error:
        os.close(handle)
        raise ConfigError(
            f"run_dir={path} is in use: a run is still at work in it; wait for its end, or stop it, or set "
            "run_dir to a new folder"
        ) from error
    except OSError:  # a file system without locks on folders
        os.close(handle)
        return
    HELD[path] = handle


def lock(handle: int, deadline: float) -> None:
    """Takes the lock, or raises BlockingIOError when another process has it beyond ``deadline``."""
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.1)


def release(path: Path) -> None:
    """Ends what :func:`hold` began, as far as this process goes."""
    handle = HELD.pop(path, None)
    if handle is not None:
        os.close(handle)


def make_writable_folder(path: Path, *, exist_ok: bool) -> None:
    """Makes the folder ``path`` and tries a file in it, which permissions alone do not foretell.

    Raises:
        ConfigError: It cannot be made, or not written: no permission, a full disk, a quota.
    """
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        raise ConfigError(f"run_dir={path} cannot be made: {error.strerror}; set run_dir=DIR") from error
    try:
        with TemporaryFile(dir=path) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # a network disk tells of its quota only here
    except OSError as error:
        raise ConfigError(
            f"run_dir={path} cannot be written: {error.strerror}; "
            "make room or get permission, or set run_dir=DIR"
        ) from error


def folder_name(name: str) -> str:
    """``name`` as a folder: no separators, never above ``outputs/``."""
    return name.replace("/", "-").strip(". ") or "run"


def refuse_used(folder: RunFolder, *, resume: str) -> None:
    """Keeps a run from writing into what is there already."""
    path = folder.path
    if path.exists() and not path.is_dir():
        raise ConfigError(f"run_dir={path} is a file; set run_dir=DIR")
    if not path.is_dir() or all(LEFT_ASIDE.fullmatch(entry.name) for entry in path.iterdir()):
        return
    if not folder.config_file.is_file():
        raise ConfigError(f"run_dir={path} holds other files; set run_dir to a new or an empty folder")
    if resume != "auto":
        raise ConfigError(
            f"run_dir={path} holds an earlier run; continue it with resume=auto, "
            "or set run_dir to a new folder, or leave run_dir out"
        )


def write_run_folder(folder: RunFolder, config: Config, overrides: Sequence[str]) -> list[str]:
    """Writes the configuration, the overrides and the environment.

    Returns:
        A line for each key that a continued run now has otherwise than before; its former
        configuration is kept under ``logs/``.

    Raises:
        ConfigError: A file cannot be written; a new run's folder is then left empty, to be used again.
    """
    is_new = not folder.config_file.is_file()
    try:
        return write_files(folder, config, overrides)
    except (OSError, ValueError) as error:
        if is_new:
            remove_files(folder)
        cause = disk_error(folder.path, error) if isinstance(error, OSError) else error
        raise ConfigError(f"run_dir={folder.path}: {cause}") from error


def write_files(folder: RunFolder, config: Config, overrides: Sequence[str]) -> list[str]:
    """Does what :func:`write_run_folder` promises, or raises OSError or ValueError half-way."""
    config.run_dir = str(folder.path)
    values = config_to_dict(config)
    changes = keep_former(folder, values)
    write_text(folder.config_file, as_yaml(values))  # first: by it the folder is known as a run's
    folder.logs.mkdir(parents=True, exist_ok=True)
    write_text(folder.overrides_file, as_yaml(list(overrides)))
    write_json(folder.environment_file, environment_record())
    for stale in [*folder.logs.glob("error-*.json"), folder.logs / EXIT_CODES, folder.result_file]:
        stale.unlink(missing_ok=True)
    return changes


def remove_files(folder: RunFolder) -> None:
    """Takes back what :func:`write_files` wrote."""
    with suppress(OSError):
        for file in (folder.config_file, folder.overrides_file, folder.environment_file):
            file.unlink(missing_ok=True)
        folder.logs.rmdir()


def keep_former(folder: RunFolder, values: Mapping[str, Any]) -> list[str]:
    """Sets the configuration of a continued run aside when the new one differs."""
    if not folder.config_file.is_file():
        return []
    former = read_record(folder.config_file).values
    changed = [
        (key, old, new) for key, old, new in differences(former, values) if key not in ("run_dir", "resume")
    ]
    if changed:
        text = folder.config_file.read_text(encoding="utf-8")
        write_text(folder.logs / f"config-until-{new_id()}.yaml", text)
    return [f"{key}: {show(old)} before, {show(new)} now" for key, old, new in changed]


def as_yaml(values: Any) -> str:
    """Plain YAML in the order of the schema."""
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return text
