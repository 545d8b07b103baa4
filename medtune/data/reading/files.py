"""Files and folders as bytes: found, unpacked, fingerprinted."""

import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any, cast

import xxhash

TYPES = {
    ".txt": "txt",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
READ_TYPES = "txt, json, jsonl, csv, tsv or parquet, packed with gz, xz or zst or not"
WILDCARDS = "*?["
BUFFER = 1 << 20


def unpack_gz(disk: IO[bytes]) -> Any:
    """The content of a gzip file; several members are read as one."""
    return gzip.GzipFile(fileobj=disk)


def unpack_xz(disk: IO[bytes]) -> Any:
    """The content of an xz file; several streams are read as one."""
    return lzma.LZMAFile(disk)


def unpack_zst(disk: IO[bytes]) -> Any:
    """The content of a Zstandard file; several frames are read as one.

    By Arrow, which tells a file that was cut off from one that ends; python-zstandard's stream reader
    does not.
    """
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(disk, mode="r"), "zstd")


UNPACKERS: dict[str, Callable[[IO[bytes]], Any]] = {".gz": unpack_gz, ".xz": unpack_xz, ".zst": unpack_zst}


def file_type(path: PurePath | str) -> str | None:
    """``txt``, ``json``, ``jsonl``, ``csv``, ``tsv`` or ``parquet`` by the name; None for any other."""
    path = PurePath(path)
    suffixes = path.suffixes
    if suffixes and suffixes[-1].lower() in UNPACKERS:
        suffixes = suffixes[:-1]
    return TYPES.get(suffixes[-1].lower()) if suffixes else None


def list_files(path: Path) -> list[Path]:
    """The files that ``path`` means: itself, those in a folder, or those that match a pattern; sorted.

    Hidden files and, in a folder, those of no type that is read (a README, a licence) are left out.

    Raises:
        ValueError: There are none, or they are of several types; names what is there.
    """
    try:
        files = found_files(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    refuse_mixed(path, files)
    return files


def found_files(path: Path) -> list[Path]:
    """As :func:`list_files`, but of any types."""
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [entry for entry in visible(path.iterdir()) if file_type(entry) is not None]
    else:
        files = matching(path) if is_pattern(path) else []
    if not files:
        raise ValueError(f"{path}: {nothing_found(path)}")
    return files


def is_pattern(path: Path) -> bool:
    """Whether a path that is not there is meant as a pattern."""
    return any(letter in str(path) for letter in WILDCARDS)


def nothing_found(path: Path) -> str:
    """What to say of a path that means no file."""
    if path.is_dir():
        return f"the folder has no file to read ({READ_TYPES}); {neighbours(path / '*')}"
    what = "no file matches the pattern" if is_pattern(path) else "no such file"
    return f"{what}; {neighbours(path)}"


def visible(entries: Iterator[Path]) -> list[Path]:
    """The files among ``entries``, sorted, without hidden ones."""
    return sorted(entry for entry in entries if not entry.name.startswith(".") and entry.is_file())


def matching(pattern: Path) -> list[Path]:
    """The files that match a pattern."""
    plain = [part for part in pattern.parts if not any(letter in part for letter in WILDCARDS)]
    start = next(index for index, part in enumerate(pattern.parts) if part not in plain)
    root = Path(*pattern.parts[:start])
    try:
        return visible(root.glob(str(Path(*pattern.parts[start:]))))
    except (ValueError, OSError) as error:
        raise ValueError(f"{pattern}: cannot be used as a pattern: {error}") from error


def refuse_mixed(path: Path, files: Sequence[Path]) -> None:
    """Raises ValueError where files are of more than one type."""
    by_type: dict[str, str] = {}
    for file in files:
        by_type.setdefault(file_type(file) or file.suffix, file.name)
    if len(by_type) > 1:
        raise ValueError(
            f"{path}: holds files of several types ({', '.join(by_type.values())}); "
            "name one of them, or a pattern such as '*.jsonl'"
        )


def neighbours(path: Path) -> str:
    """What lies beside a path that was not found, for the error message."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return f"the folder {path.parent} does not exist either; set data.dir to the folder of your files"
    except OSError as error:
        return f"{path.parent} cannot be listed: {error.strerror}"
    return f"{path.parent} holds {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}"


def open_disk(path: Path) -> IO[bytes]:
    """Opens a file as it lies on disk, unbuffered.

    Raises:
        ValueError: It is missing, a folder, or cannot be read.
    """
    try:
        return cast(IO[bytes], path.open("rb", buffering=0))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {neighbours(path)}") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder, not a file; {neighbours(path / '*')}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error


def unpacked(disk: IO[bytes], path: Path) -> io.BufferedReader:
    """The content of an open file, unpacked when its name says that it is packed."""
    unpack = UNPACKERS.get(path.suffix.lower())
    if unpack is None:
        return io.BufferedReader(cast(io.RawIOBase, disk), BUFFER)
    # Without the buffer GzipFile and LZMAFile find the ends of lines in Python, five times slower.
    return io.BufferedReader(unpack(io.BufferedReader(cast(io.RawIOBase, disk), BUFFER)), BUFFER)


@contextmanager
def named_damage(path: Path, place: Callable[[], str]) -> Iterator[None]:
    """Turns what unpacking raises into a ValueError that names the file and the ``place`` reached."""
    try:
        yield
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if path.suffix.lower() in UNPACKERS:
            raise ValueError(
                f"{path}: the compressed file is damaged{place()}: {error}; get it again"
            ) from error
        raise ValueError(f"{path}: cannot be read{place()}: {error}") from error


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a file for reading its content, unpacked when its name says that it is packed.

    Raises:
        ValueError: It is missing, a folder, or cannot be read. What is damaged further on is found by the
            reads, which raise as the compression's module does.
    """
    with open_disk(path) as disk:
        yield unpacked(disk, path)


def files_digest(paths: Sequence[Path]) -> str:
    """A fingerprint of what files hold, in their order: of their bytes on disk and types, not their names.

    Raises:
        ValueError: One cannot be read.
    """
    digest = xxhash.xxh3_128()
    for path in paths:
        digest.update(f"{file_type(path)}:{path.suffix if path.suffix in UNPACKERS else ''}\n".encode())
        digest.update(content_digest(path))
    return digest.hexdigest()


def content_digest(path: Path) -> bytes:
    """XXH3-128 of one file's bytes on disk."""
    digest = xxhash.xxh3_128()
    with open_disk(path) as disk:
        while chunk := disk.read(BUFFER):
            digest.update(chunk)
    return digest.digest()


def sha1_of(path: Path) -> str:
    """SHA-1 of one file's bytes on disk, as registries give it."""
    with open_disk(path) as disk:
        return hashlib.file_digest(disk, "sha1").hexdigest()  # type: ignore[arg-type] # any bytes will do
