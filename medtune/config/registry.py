"""LLaMA-Factory's ``dataset_info.json``: a registry of data sets, read as it is.

The keys of an entry and what they mean follow LLaMA-Factory's ``data/README.md``, from the flat entries
of 2023 to those with ``formatting`` and ``tags``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from medtune.config.columns import FORMAT_COLUMNS
from medtune.config.roles import SPELLINGS
from medtune.config.suggest import did_you_mean, nearest

REGISTRY = "dataset_info.json"
SHOWN_KEYS = 12

# By the registry's name for a column, ours.
COLUMNS = {
    "prompt": "instruction",
    "query": "query",
    "response": "response",
    "history": "history",
    "system": "system",
    "messages": "messages",
    "chosen": "chosen",
    "rejected": "rejected",
}
# What the registry means where an entry names no columns.
USUAL = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output", "history": "history"},
    "sharegpt": {"messages": "conversations"},
}
REFUSED_COLUMNS = {
    "tools": "tool calls are not supported",
    "images": "only text is trained",
    "videos": "only text is trained",
    "audios": "only text is trained",
    "kto_tag": "single responses marked good or bad are not supported; preference needs pairs",
}
REFUSED_PLACES = {
    "script_url": "is a data set script, which is remote code and never run; convert its data to a file and "
    "name it with data.dir and data.splits.train",
    "ms_hub_url": "is on ModelScope, which is not read; get its files and name them with data.dir and "
    "data.splits.train",
    "om_hub_url": "is on Modelers, which is not read; get its files and name them with data.dir and "
    "data.splits.train",
    "cloud_file_name": "is on a cloud store, which is not read; get its files and name them with data.dir "
    "and data.splits.train",
}
TAG_ROLES = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
TAG_COLUMNS = {"role_tag": "role", "content_tag": "content"}
TEXT_KEYS = (
    "hf_hub_url",
    *REFUSED_PLACES,
    "file_name",
    "file_sha1",
    "subset",
    "split",
    "folder",
    "formatting",
)
KNOWN_KEYS = (*TEXT_KEYS, "ranking", "num_samples", "columns", "tags")
# Turns of tools are refused when they are read, whatever their tag.
KNOWN_TAGS = (*TAG_ROLES, *TAG_COLUMNS, "observation_tag", "function_tag")


@dataclass
class Entry:
    """One data set of the registry.

    Attributes:
        what: The key as one types it, and the file; messages begin with it.
        values: As the file has them.
        problems: What is wrong with it.
    """

    what: str
    values: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)

    def refuse(self, reason: str) -> None:
        """Adds a problem."""
        self.problems.append(f"{self.what} {reason}")

    def text(self, key: str) -> str | None:
        """The text at a key; None where it is missing or empty."""
        value = self.values.get(key)
        return value if isinstance(value, str) and value else None

    def section(self, key: str, known: tuple[str, ...]) -> dict[str, str]:
        """The texts in a section that are not empty, by key."""
        section = self.values.get(key) or {}
        if not isinstance(section, Mapping):
            self.refuse(f"has {key}={section!r}, which must be an object of names")
            return {}
        for name, value in section.items():
            if name not in known:
                self.refuse(f"has {key}.{name}, which is not known{did_you_mean(nearest(name, known))}")
            elif value is not None and not isinstance(value, str):
                self.refuse(f"has {key}.{name}={value!r}, which must be a name")
        return {name: value for name, value in section.items() if isinstance(value, str) and value}


def resolve_registry(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The plain values of a source that names a ``dataset``, with what the registry says filled in.

    What the values themselves say of format, columns, roles, splits and number of examples goes before.
    Files are not looked for.

    Args:
        values: Keys of :class:`~medtune.config.schema.SourceConfig`; ``dataset`` and ``dir`` among them.

    Returns:
        The values and what is wrong.
    """
    entry = find_entry(values)
    if isinstance(entry, str):
        return dict(values), [entry]
    check_entry(entry)
    filled = {**values, **place_of(entry, values), **form_of(entry, values)}
    samples = entry.values.get("num_samples")
    if samples is not None and values.get("max_examples") is None:
        filled["max_examples"] = samples
    return (dict(values) if entry.problems else filled), entry.problems


def find_entry(values: Mapping[str, Any]) -> Entry | str:
    """The entry that ``dataset`` names, or why there is none."""
    key = values["dataset"]
    if not values.get("dir"):
        return f"data.dataset={key} is a key of a {REGISTRY}; set data.dir to the folder that holds it"
    path = Path(values["dir"]) / REGISTRY
    try:
        registry = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        return f"data.dataset={key} needs {path}, which cannot be read: {error.strerror}; set data.dir"
    except (ValueError, RecursionError) as error:
        return f"data.dataset={key}: {path} is not JSON: {error}"
    if not isinstance(registry, dict):
        return f"data.dataset={key}: {path} is not a JSON object of data sets"
    if key not in registry:
        known = list(registry)
        shown = ", ".join(known[:SHOWN_KEYS]) + (" ..." if len(known) > SHOWN_KEYS else "")
        near = nearest(str(key), known)
        return (
            f"data.dataset={key} is none of the {len(known)} data sets in {path} ({shown or 'none'})"
            f"{did_you_mean(f'data.dataset={near}' if near else None)}"
        )
    if not isinstance(registry[key], dict):
        return f"data.dataset={key} must be a JSON object in {path}, found {type(registry[key]).__name__}"
    return Entry(f"data.dataset={key} in {path}", registry[key])


def check_entry(entry: Entry) -> None:
    """Adds the problems of keys that are not known, and of values of the wrong type."""
    for key, value in entry.values.items():
        if key not in KNOWN_KEYS:
            entry.refuse(f"has a key {key}, which is not known{did_you_mean(nearest(key, KNOWN_KEYS))}")
        elif key in TEXT_KEYS and value is not None and not isinstance(value, str):
            entry.refuse(f"has {key}={value!r}, which must be text")
    ranking, samples = entry.values.get("ranking"), entry.values.get("num_samples")
    if not isinstance(ranking, bool | None):
        entry.refuse(f"has ranking={ranking!r}, which must be true or false")
    if samples is not None and (type(samples) is not int or samples < 1):
        entry.refuse(f"has num_samples={samples!r}, which must be a whole number from 1")
    if entry.text("formatting") not in (None, *USUAL):
        entry.refuse(f"has formatting={entry.text('formatting')}, which is none of {', '.join(USUAL)}")


def place_of(entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
    """Where the data is: of several places the hub goes before a script, and a script before a file."""
    splits = dict(values.get("splits") or {})
    hub, file = entry.text("hf_hub_url"), entry.text("file_name")
    if hub:
        if values.get("hub") not in (None, hub):
            entry.refuse(f"is {hub} on the hub, but data.hub={values['hub']}; set one of them")
        splits.setdefault("train", entry.text("split") or "train")
        keys = {key: values.get(key) or entry.text(key) for key in ("subset", "folder")}
        return {"hub": hub, "splits": splits, **keys}
    refused = [key for key in REFUSED_PLACES if entry.text(key) and (key == "script_url" or not file)]
    if refused:
        entry.refuse(REFUSED_PLACES[refused[0]])
    elif not file:
        entry.refuse("names neither hf_hub_url nor file_name")
    elif values.get("hub"):
        entry.refuse(f"is the file {file}, but data.hub={values['hub']}; set one of them")
    splits.setdefault("train", file)
    sha1 = entry.text("file_sha1")
    is_own = splits["train"] == file
    sums = {**({"train": sha1} if sha1 and is_own else {}), **(values.get("sha1") or {})}
    return {"splits": splits, "sha1": sums}


def form_of(entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
    """How the data is read: format, columns and roles."""
    formatting = entry.text("formatting") or "alpaca"
    named = entry.section("columns", (*COLUMNS, *REFUSED_COLUMNS))
    for name, reason in REFUSED_COLUMNS.items():
        if name in named:
            entry.refuse(f"has columns.{name}={named[name]}: {reason}")
    names = named if entry.values.get("columns") else dict(USUAL.get(formatting, {}))
    format = format_of(entry, formatting, names)
    columns = columns_of(entry, format, names)
    tags = entry.section("tags", KNOWN_TAGS)
    columns |= {ours: tags[tag] for tag, ours in TAG_COLUMNS.items() if tag in tags}
    roles = {
        tags[tag]: role for tag, role in TAG_ROLES.items() if tag in tags and SPELLINGS.get(tags[tag]) != role
    }
    given = values.get("format")
    return {
        "format": format if given in (None, "auto") else given,
        "columns": {**columns, **own_columns(values.get("columns"))},
        "roles": {**roles, **(values.get("roles") or {})},
    }


def format_of(entry: Entry, formatting: str, names: Mapping[str, str]) -> str:
    """Our format for an entry."""
    if entry.values.get("ranking") or "chosen" in names or "rejected" in names:
        return "preference"
    if formatting == "sharegpt":
        return "messages"
    if "prompt" not in names:
        entry.refuse("maps no column to prompt, so there is nothing to read")
    if "response" in names:
        return "alpaca"
    if "query" in names:
        entry.refuse("maps a column to query but none to response; a document is a single column")
    return "text"


def columns_of(entry: Entry, format: str, names: Mapping[str, str]) -> dict[str, str]:
    """Our columns; "" where the registry maps none, so that the format's own name is not read either."""
    if format == "text":
        return {"text": names.get("prompt", "")}
    read = FORMAT_COLUMNS[format]
    columns = {ours: names.get(theirs, "") for theirs, ours in COLUMNS.items() if ours in read}
    if format == "preference" and not (columns["chosen"] and columns["rejected"]) and not columns["response"]:
        entry.refuse("is a ranking, but maps no columns to chosen and rejected")
    return columns


def own_columns(columns: Any) -> dict[str, str]:
    """The columns that the settings name themselves."""
    named = vars(columns) if is_dataclass(columns) else (columns or {})
    return {key: value for key, value in named.items() if value is not None}
