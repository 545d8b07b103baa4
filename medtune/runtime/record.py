"""The run folder: where everything about a run lies, and how files get there whole."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What lies beside ``name`` while it is written: .name.PID.tmp, .name.partial; and, of a folder that is being
# replaced, .name.PID.old.
LEFT_ASIDE = re.compile(r"\.(?P<name>.+?)(?:\.\d+)?\.(?P<kind>tmp|partial|old)")


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of one run; DESIGN's RUN_DIR."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The settled configuration, all keys, plain YAML."""
        return self.path / "config.yaml"

    @property
    def overrides_file(self) -> Path:
        """What the user typed."""
        return self.path / "overrides.yaml"

    @property
    def environment_file(self) -> Path:
        """Commit, versions, hardware."""
        return self.path / "environment.json"

    @property
    def data_report_file(self) -> Path:
        """The ledger of the data."""
        return self.path / "data_report.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def scores_file(self) -> Path:
        """Scores per split, system and task."""
        return self.path / "scores.json"

    @property
    def comparison_file(self) -> Path:
        """Differences from another run."""
        return self.path / "comparison.json"

    @property
    def details(self) -> Path:
        """Folder of what explains the scores: confusion tables, the worst rows."""
        return self.path / "details"

    @property
    def submission(self) -> Path:
        """Folder of the archive for PromptCBLUE's organisers."""
        return self.path / "submission"

    @property
    def result_file(self) -> Path:
        """What a sweep reads: status, losses, score."""
        return self.path / "result.json"

    @property
    def logs(self) -> Path:
        """Folder of ``rank-N.log`` and ``error-N.json``."""
        return self.path / "logs"

    @property
    def plots(self) -> Path:
        """Folder of pictures."""
        return self.path / "plots"

    @property
    def checkpoints(self) -> Path:
        """Folder of what a run resumes from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The final weights as a Hugging Face folder."""
        return self.path / "model"

    @property
    def predictions(self) -> Path:
        """Folder of predictions files."""
        return self.path / "predictions"


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` so that a reader finds the old file or the whole new one, never a part."""
    write_pieces(path, [text])


def write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """As :func:`write_text`, but takes the text piece by piece, so that it need not fit into memory."""
    write_whole(path, (piece.encode() for piece in pieces))


def write_whole(path: Path, pieces: Iterable[bytes]) -> None:
    """As :func:`write_pieces`, for bytes."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with suppress(OSError):  # on a disk that cannot be written there is nothing to remove
            aside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """As :func:`write_text`, for bytes."""
    write_whole(path, [content])


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as readable JSON, atomically; see :func:`write_text`."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line, atomically; see :func:`write_text`."""
    write_pieces(path, (f"{json_line(row)}\n" for row in rows))


def json_line(row: Mapping[str, Any]) -> str:
    """A row on one line, as it reads; in escapes where it holds half a surrogate pair, which UTF-8 lacks."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return line


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: The file does not parse; the message names it, line and column.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from error


def merge_json(path: Path, more: Mapping[str, Any]) -> None:
    """Updates the top-level keys of a JSON object on disk, creating it when it is not there."""
    before = read_json(path) if path.exists() else {}
    write_json(path, {**before, **more})


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a folder aside that becomes ``path`` when the block ends well, and is removed when not.

    What was at ``path`` stays until the new one is whole.

    Raises:
        ValueError: The disk is full or the place cannot be written; says how much space is free.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        yield aside
        replace_folder(aside, path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Puts the folder ``new`` in the place of ``path``; the old one goes only once the new one stands."""
    for entry in [*new.rglob("*"), new]:
        (sync_folder if entry.is_dir() else sync)(entry)
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.replace(old)
    new.replace(path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Has the system write a file's content, or a folder's names, to the disk before anything goes on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """As :func:`sync`, for the names in a folder; there are file systems that know it of files only."""
    with suppress(OSError):
        sync(path)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process left aside in ``folder``; what it had put out of its place goes back."""
    for path in folder.iterdir() if folder.is_dir() else ():
        found = LEFT_ASIDE.fullmatch(path.name)
        if found is None:
            continue
        if found["kind"] == "old" and not (folder / found["name"]).exists():
            path.replace(folder / found["name"])
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def disk_error(path: Path, error: OSError) -> ValueError:
    """The message for a write that failed: which file, why, and how much space is left."""
    place = next(parent for parent in [path, *path.parents] if parent.exists())
    free = shutil.disk_usage(place).free / 2**20
    return ValueError(
        f"cannot write {path}: {error.strerror or error} ({free:.0f} MiB free); what was there before is "
        "untouched. Free some space or choose another place with run_dir=DIR (tokens: data.cache_dir=DIR)"
    )
