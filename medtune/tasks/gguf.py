"""GGUF files through llama.cpp's own converter (github.com/ggml-org/llama.cpp, convert_hf_to_gguf.py)."""

import logging
import struct
import subprocess
import sys
from pathlib import Path

from medtune.runtime.errors import ConfigError

log = logging.getLogger(__name__)

LINES_OF_CAUSE = 12
# Magic, version, number of tensors, number of settings (llama.cpp's docs/gguf.md).
HEADER = struct.Struct("<4sIQQ")


def convert(model: Path, converter: Path, kind: str) -> Path:
    """Converts a model folder and looks at what came out.

    Args:
        model: A Hugging Face folder of a whole model.
        converter: llama.cpp's ``convert_hf_to_gguf.py``; it runs in this Python, whose packages it needs.
        kind: The converter's ``--outtype``: ``f32``, ``f16``, ``bf16``, ``q8_0`` or ``auto``.

    Returns:
        The file, in the model's folder.

    Raises:
        ConfigError: The converter gave up, as for an architecture that it does not know, or wrote no model.
    """
    target = model / f"model-{kind}.gguf"
    log.info("export: %s converts", converter)
    command = [sys.executable, str(converter), str(model), "--outfile", str(target), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        target.unlink(missing_ok=True)
        cause = "\n".join((done.stderr or done.stdout).strip().splitlines()[-LINES_OF_CAUSE:])
        raise ConfigError(
            f"export.gguf={kind}: {converter.name} ended with code {done.returncode}; {model} holds the "
            f"model without it. It says:\n{cause}"
        )
    check_file(target)
    return target


def check_file(file: Path) -> None:
    """Raises ConfigError where ``file`` is no GGUF file with tensors."""
    start = b""
    if file.is_file():
        with file.open("rb") as stream:
            start = stream.read(HEADER.size)
    if len(start) == HEADER.size:
        magic, _, tensors, _ = HEADER.unpack(start)
        if magic == b"GGUF" and tensors:
            return
    raise ConfigError(f"{file} was written by llama.cpp's converter, but is no GGUF file with tensors in it")
