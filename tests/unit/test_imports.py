"""The layers, held by the imports as they are written; see docs/architecture.md."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "medtune"
# From the ground up: a layer may import itself and those before it; names in one tuple do not know each
# other.
LAYERS = (
    ("config.schema",),
    ("runtime",),
    ("config",),
    ("models",),
    ("data",),
    ("training", "generation", "evaluation"),
    ("serving",),
    ("tasks",),
    ("worker",),
    ("launch",),
    ("__main__",),
)
HEAVY = ("torch", "lightning", "transformers", "peft", "deepspeed", "bitsandbytes", "datasets", "wandb")
# What the launcher may take from below: nothing that imports a heavy library before it is called.
LIGHT_FOR_LAUNCHER = (
    "medtune.training.limits",
    "medtune.training.strategies",
    "medtune.training.resume",
    "medtune.training.checkpoints",
    "medtune.evaluation.promptcblue.protocols",
    "medtune.runtime.families",
)
MODULES = sorted(PACKAGE.rglob("*.py"))
# The same within the data package; what is not named uses all of it.
DATA_LAYERS = (
    ("examples",),
    ("reading",),
    ("tokens",),
    ("fates",),
    ("parts",),
    ("duplicates", "rows"),
    ("corpus",),
    ("ledger",),
    ("report",),
)
DATA_MODULES = sorted((PACKAGE / "data").rglob("*.py"))


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, *, when_imported: bool) -> Iterator[str]:
    """Absolute names that a module imports, only those of its own import or those in functions too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = at_import(tree.body) if when_imported else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Statements that run when a module is imported."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        yield from at_import([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])


def layer_of(module: str) -> int | None:
    """The height of a module's layer; None for the package itself."""
    inner = module.removeprefix("medtune").removeprefix(".")
    if inner == "config.schema" or inner.startswith("config.schema."):
        return 0
    top = inner.split(".")[0]
    return next((height for height, names in enumerate(LAYERS) if top in names), None)


def data_layer_of(module: str) -> int:
    """The height of a module of the data package within it."""
    inner = module.removeprefix("medtune.data").removeprefix(".").split(".")[0]
    heights = [height for height, names in enumerate(DATA_LAYERS) if inner in names]
    return heights[0] if heights else len(DATA_LAYERS)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_dependence_goes_one_way(file):
    own = layer_of(name_of(file))
    for target in imported(file, when_imported=False):
        if target.split(".")[0] != "medtune" or own is None:
            continue
        other = layer_of(target)
        assert other is not None or target == "medtune.__version__", f"{target} is of no layer"
        siblings = target.split(".")[1] != name_of(file).split(".")[1]
        above = other is not None and (other > own or (other == own and siblings))
        assert not above, f"{name_of(file)} imports {target}"


@pytest.mark.parametrize(
    "file", [file for file in MODULES if layer_of(name_of(file)) in (0, 2, 9, 10)], ids=name_of
)
def test_the_launcher_imports_nothing_heavy(file):
    """Not even inside a function: whatever needs torch is the worker's.

    But medtune.launch.elastic, a process of its own, runs torchrun: torch, and only inside a function.
    """
    tops = {target.split(".")[0] for target in imported(file, when_imported=False)}
    assert tops & set(HEAVY) == ({"torch"} if name_of(file) == "medtune.launch.elastic" else set())
    tops = {target.split(".")[0] for target in imported(file, when_imported=True)}
    assert tops.isdisjoint(HEAVY)
    ours = {target for target in imported(file, when_imported=False) if target.startswith("medtune.")}
    below = {target for target in ours if 3 <= (layer_of(target) or 0) <= 8}
    assert all(target.startswith(LIGHT_FOR_LAUNCHER) for target in below)


@pytest.mark.parametrize("file", DATA_MODULES, ids=name_of)
def test_data_is_built_from_the_records_up(file):
    own = data_layer_of(name_of(file))
    for target in imported(file, when_imported=False):
        if not target.startswith("medtune.data."):
            continue
        inner, other = target.split(".")[2], data_layer_of(target)
        siblings = inner != name_of(file).removeprefix("medtune.data.").split(".")[0]
        assert other < own or (other == own and not siblings), f"{name_of(file)} imports {target}"


@pytest.mark.parametrize("file", DATA_MODULES, ids=name_of)
def test_data_needs_torch_only_where_batches_are_made(file):
    if file.stem in ("collate", "datamodule"):
        return
    tops = {target.split(".")[0] for target in imported(file, when_imported=True)}
    assert tops.isdisjoint(("torch", "lightning"))


@pytest.mark.parametrize(
    "module",
    ["medtune", "medtune.__main__", "medtune.launch.command", "medtune.launch.elastic", "medtune.worker"],
)
def test_importing_the_entry_points_loads_nothing_heavy(module):
    code = (
        f"import sys, {module}; "
        f"sys.exit(str(sorted({set(HEAVY)!r} & {{name.split('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_what_is_cached_is_reached_without_a_tokenizer_library():
    """A warm start costs 0.3 CPU-seconds; transformers alone costs several."""
    code = (
        "import sys, medtune.data.corpus, medtune.data.rows.collate; "
        "sys.exit(str(sorted({'transformers', 'lightning', 'datasets', 'pandas', 'jinja2', 'matplotlib'} "
        "& {name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_the_schema_stands_alone():
    assert {
        name.split(".")[0] for name in imported(PACKAGE / "config" / "schema.py", when_imported=False)
    } == {
        "dataclasses",
        "typing",
    }
