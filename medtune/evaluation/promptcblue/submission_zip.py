"""The archive that the organisers take: predictions, and the parser that reads them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medtune.evaluation.promptcblue.errors import FatalRowError
from medtune.evaluation.promptcblue.matching import name_record
from medtune.evaluation.promptcblue.post_process import read_answer
from medtune.evaluation.promptcblue.protocols import Protocol
from medtune.evaluation.promptcblue.records import find_task
from medtune.evaluation.promptcblue.standalone import assemble_parser
from medtune.runtime.record import json_line

ZIP_NAME = "test_predictions.zip"
PREDICTIONS_NAME, PARSER_NAME = "test_predictions.json", "post_generate_process.py"
FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold; the same answers give the same bytes
READABLE = 0o100644 << 16


def pack_submission(records: Sequence[Mapping[str, Any]], texts: Sequence[str], protocol: Protocol) -> bytes:
    """Returns the archive: the records in their order with each text as ``target``, and the parser."""
    rows = ({**record, "target": text} for record, text in zip(records, texts, strict=True))
    files = {
        PREDICTIONS_NAME: "".join(f"{json_line(row)}\n" for row in rows),
        PARSER_NAME: assemble_parser(protocol.name),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, FIRST_DATE)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, READABLE
            archive.writestr(entry, content.encode())
    return buffer.getvalue()


def find_fatal_rows(
    records: Iterable[Mapping[str, Any]], texts: Iterable[str], places: Iterable[str], protocol: Protocol
) -> list[str]:
    """Names the rows on which the official parser or metric would die; the packed one does not."""
    fatal = []
    for index, (record, text, place) in enumerate(zip(records, texts, places, strict=True)):
        task = find_task(record, place, protocol)
        try:
            read_answer({**record, "target": text}, task, protocol)
        except FatalRowError as error:
            fatal.append(f"{name_record(record, index)} ({task.name}: {error.exception})")
    return fatal
