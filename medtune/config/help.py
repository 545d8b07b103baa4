"""``python -m medtune --help [GROUP|KEY]``: made from ``conf/`` and the schema's text, in milliseconds.

Standard library only, and nothing is imported but this module: the schema is parsed, not run.
"""

import ast
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"
SCHEMA = Path(__file__).with_name("schema.py")
NOT_SHOWN = ("hydra",)
EXAMPLES = (
    ("python -m medtune", "train, answer and score the built-in sample on this machine"),
    ("python -m medtune model=baichuan13b data=promptcblue strategy=zero3", "all parameters, over all GPUs"),
    ("python -m medtune model=baichuan7b adapter=lora quantization=nf4 data=promptcblue", "QLoRA on one GPU"),
    ("python -m medtune -m optim.lr=1e-5,2e-5 objective=sft,pretrain", "a run for each combination"),
    ("python -m medtune task=chat weights=RUN_DIR", "talk with what was trained"),
)


@dataclass(frozen=True)
class KeyHelp:
    """What the schema says about a key."""

    name: str
    type: str
    default: str
    text: str


def show_help(arguments: Sequence[str]) -> int:
    """Writes the help that a command line asks for; gives 2 when it asks for what is not there."""
    topics = [argument.partition("=")[0] for argument in arguments if not argument.startswith("-")]
    if not topics:
        sys.stdout.write(overview())
        return 0
    code = 0
    for topic in topics:
        text = topic_help(topic)
        if text is None:
            sys.stderr.write(no_topic(topic))
            code = 2
        else:
            sys.stdout.write(text)
    return code


def overview() -> str:
    """The first page: usage, verbs, groups with their options, examples."""
    groups = {group: options(group) for group in group_names()}
    lines = ["usage: python -m medtune [KEY=VALUE | GROUP=OPTION] ...      one run", ""]
    lines[1:1] = ["       python -m medtune -m KEY=VALUE,VALUE ...              a run for each value"]
    lines += ["What to do (task=):"]
    lines += [f"  {name:<12}{text}" for name, text in groups.pop("task", {}).items()]
    lines += ["", "Groups and their options:"]
    for group, names in groups.items():
        lines += hanging(f"  {group:<14}", ", ".join(names) or "-")
    lines += ["", "Examples:"]
    for command, meaning in EXAMPLES:
        lines += [f"  {command}", f"      {meaning}"]
    lines += [
        "",
        "  --help GROUP   a group's keys with type, default and meaning, and its options (--help optim)",
        "  --help run     the keys of the run itself: name, run_dir, seed, weights, resume, ...",
        "  --cfg job      the composed settings, without running",
        "  -cd FOLDER     a folder of your own options beside conf/",
        "",
    ]
    return "\n".join(lines)


def topic_help(topic: str) -> str | None:
    """The page of a group, a section or one key; None when there is none of that name."""
    sections = read_schema()
    if topic == "run":
        return section_page("run", "", sections["Config"])
    names = {key.name: key.type for key in sections["Config"]}
    section, _, key = topic.partition(".")
    if section not in names and section not in group_names():
        return None
    found = sections.get(names.get(section, ""))
    if found is None:  # a key of the run itself, an open node, or a group of deltas
        own = [item for item in sections["Config"] if item.name == section]
        return section_page(section, "", own)
    if not key:
        return section_page(section, f"{section}.", list(nested(found, "", sections)))
    own = [
        item for item in nested(found, "", sections) if item.name == key or item.name.startswith(f"{key}.")
    ]
    return section_page(section, f"{section}.", own) if own else None


def nested(keys: Sequence[KeyHelp], prefix: str, sections: dict[str, list[KeyHelp]]) -> Iterator[KeyHelp]:
    """A section's keys with those of the sections in it."""
    for key in keys:
        if key.type in sections:
            yield from nested(sections[key.type], f"{prefix}{key.name}.", sections)
        else:
            yield KeyHelp(prefix + key.name, key.type, key.default, key.text)


def section_page(section: str, prefix: str, keys: Sequence[KeyHelp]) -> str:
    """Keys with type, default and meaning, then the group's options."""
    lines = []
    sections = read_schema()
    for key in keys:
        if key.type in sections:
            lines += [f"{prefix}{key.name}.*   python -m medtune --help {key.name}"]
            continue
        lines += [f"{prefix}{key.name}   {key.type}, default {key.default}"]
        lines += hanging("    ", key.text)
    if section in group_names():
        lines += ["", f"Options of {section} (conf/{section}/):"]
        for name, text in options(section).items():
            lines += hanging(f"  {section + '=' + name:<36}", text)
    return "\n".join(lines) + "\n"


def no_topic(topic: str) -> str:
    """What is said about a topic that does not exist."""
    from difflib import get_close_matches

    known = [*group_names(), *(key.name for key in read_schema()["Config"]), "run"]
    near = get_close_matches(topic, known, n=1)
    meant = f"; did you mean --help {near[0]}?" if near else ""
    return f"there is no group or key {topic}{meant} `python -m medtune --help` lists the groups.\n"


def group_names() -> list[str]:
    """The groups in the order of the defaults list, then those that it does not name."""
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    listed = [
        line.strip()[2:].partition(":")[0] for line in text.splitlines() if line.strip().startswith("- ")
    ]
    folders = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in NOT_SHOWN)
    return list(dict.fromkeys([name for name in listed if name in folders] + folders))


def options(group: str) -> dict[str, str]:
    """A group's options and the comment that each file begins with."""
    return {file.stem: leading_comment(file) for file in sorted((CONF / group).glob("*.yaml"))}


def leading_comment(file: Path) -> str:
    """The comment at the top of a YAML, package directive and commands left out."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        if not text.startswith(("@package", "python -m")):
            lines.append(text)
    return " ".join(lines)


def hanging(start: str, text: str) -> list[str]:
    """``text`` after ``start``, its further lines indented to the same column."""
    width = min(shutil.get_terminal_size((110, 24)).columns, 120)
    wrapped = textwrap.wrap(text, max(30, width - len(start)), break_on_hyphens=False)
    return [start + (wrapped[0] if wrapped else ""), *(" " * len(start) + line for line in wrapped[1:])]


def read_schema() -> dict[str, list[KeyHelp]]:
    """The keys of each dataclass of the schema, by class name."""
    tree = ast.parse(SCHEMA.read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    sections: dict[str, list[KeyHelp]] = {}
    for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        inherited = [key for base in node.bases for key in sections.get(ast.unparse(base), [])]
        sections[node.name] = [*inherited, *class_keys(node, constants)]
    return sections


def class_keys(node: ast.ClassDef, constants: dict[str, ast.expr]) -> Iterator[KeyHelp]:
    """Each annotated field with the string below it."""
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).split())
            kind, default = type_and_default(item, constants)
            yield KeyHelp(item.target.id, kind, default, text)


def type_and_default(item: ast.AnnAssign, constants: dict[str, ast.expr]) -> tuple[str, str]:
    """A field's type, or its choices, and its default as typed on a command line."""
    kind, value = ast.unparse(item.annotation), item.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "choice":
        choices = list(choice_values(value, constants))
        return "|".join(dict.fromkeys(choices)), choices[0]
    if isinstance(value, ast.Call):
        return kind, factory_default(value)
    text = ast.unparse(value) if value is not None else "-"
    return kind.replace("None", "null"), {"None": "null", "True": "true", "False": "false"}.get(text, text)


def choice_values(call: ast.Call, constants: dict[str, ast.expr]) -> Iterator[str]:
    """The arguments of ``choice(...)``, ``*NAME`` spelled out."""
    for argument in call.args:
        if isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Name):
            yield from ast.literal_eval(constants[argument.value.id])
        else:
            yield ast.literal_eval(argument)


def factory_default(call: ast.Call) -> str:
    """The default of ``field(default_factory=...)``."""
    factory = next(keyword.value for keyword in call.keywords if keyword.arg == "default_factory")
    if isinstance(factory, ast.Lambda):
        return ast.unparse(factory.body)
    return {"dict": "{}", "list": "[]"}.get(ast.unparse(factory), "-")
