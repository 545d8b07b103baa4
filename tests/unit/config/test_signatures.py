import inspect
import subprocess
import sys
from importlib import import_module

import pytest

from medtune.config.signatures import UNKNOWN, Signature, signature_of

OURS = [
    "medtune.training.strategies.ddp",
    "medtune.training.strategies.zero",
    "medtune.training.strategies.fsdp",
    "medtune.training.loggers.wandb",
    "medtune.training.loggers.tensorboard",
]
THEIRS = [
    "lightning.pytorch.Trainer",
    "lightning.pytorch.strategies.DDPStrategy",
    "lightning.pytorch.strategies.DeepSpeedStrategy",
    "lightning.pytorch.callbacks.ModelCheckpoint",
    "lightning.pytorch.callbacks.RichProgressBar",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.LearningRateMonitor",
    "lightning.pytorch.loggers.WandbLogger",
    "lightning.pytorch.loggers.CSVLogger",
]


def real_signature(target: str) -> Signature:
    module, _, name = target.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [item for item in parameters if item.kind in kinds]
    return Signature(
        tuple(item.name for item in named),
        frozenset(item.name for item in named if item.default is inspect.Parameter.empty),
        any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters),
    )


@pytest.mark.parametrize("target", [*OURS, *THEIRS])
@pytest.mark.filterwarnings("ignore")  # of importing Lightning
def test_the_source_tells_what_python_tells(target):
    assert signature_of(target) == real_signature(target)


MODULE = """
from dataclasses import dataclass
from functools import partial
import os as system
from .inner import moved as here
from .inner import *

if True:
    def conditional(a, b=1): ...

def positional(a, /, b, *, c, d=1, **more): ...

class Plain: ...

class Made:
    def __init__(self, a, b=2): ...
    @classmethod
    def load(cls, path): ...
    @staticmethod
    def join(x, y): ...

class Child(Made): ...

@dataclass(frozen=True)
class Base:
    a: int

@dataclass
class Record(Base):
    b: int = 3

alias = Made
made = partial(positional, 1)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "pretend_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(MODULE)
    (folder / "inner.py").write_text("def moved(q): ...\ndef starred(r=1): ...\n")
    (folder / "lazy.py").write_text("def __getattr__(name): ...\n")
    (folder / "circle.py").write_text("from pretend_package.circle import lost\n")
    (folder / "raising.py").write_text("raise RuntimeError('imported')\ndef quiet(a): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "pretend_package"


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        pytest.param("conditional", Signature(("a", "b"), frozenset({"a"})), id="inside_if"),
        pytest.param("positional", Signature(("b", "c", "d"), frozenset({"b", "c"}), True), id="kinds"),
        pytest.param("Plain", Signature(()), id="no_init"),
        pytest.param("Made", Signature(("a", "b"), frozenset({"a"})), id="class"),
        pytest.param("Child", Signature(("a", "b"), frozenset({"a"})), id="inherited_init"),
        pytest.param("Made.load", Signature(("path",), frozenset({"path"})), id="classmethod"),
        pytest.param("Made.join", Signature(("x", "y"), frozenset({"x", "y"})), id="staticmethod"),
        pytest.param("Record", Signature(("a", "b"), frozenset({"a"})), id="dataclass"),
        pytest.param("alias", Signature(("a", "b"), frozenset({"a"})), id="alias"),
        pytest.param("here", Signature(("q",), frozenset({"q"})), id="imported_under_another_name"),
        pytest.param("starred", Signature(("r",)), id="star_import"),
        pytest.param("inner.moved", Signature(("q",), frozenset({"q"})), id="submodule"),
        pytest.param("raising.quiet", Signature(("a",), frozenset({"a"})), id="never_imported"),
        pytest.param("made", UNKNOWN, id="made_at_run_time"),
        pytest.param("system", UNKNOWN, id="a_module"),
        pytest.param("lazy.anything", UNKNOWN, id="names_made_on_demand"),
        pytest.param("nothing", None, id="no_such_name"),
        pytest.param("Made.nothing", None, id="no_such_method"),
        pytest.param("nowhere.x", None, id="no_such_module"),
        pytest.param("circle.lost", None, id="circular_import"),
    ],
)
def test_names_are_followed_to_their_definition(package, name, signature):
    assert signature_of(f"{package}.{name}") == signature


@pytest.mark.parametrize("target", ["no_such_package.x", "x", "1.2", ""])
def test_a_package_that_is_not_there_has_no_signature(target):
    assert signature_of(target) is None


def test_reading_imports_nothing():
    code = (
        "import sys; from medtune.config.signatures import signature_of; "
        "assert signature_of('lightning.pytorch.Trainer'); "
        "sys.exit(any(name.split('.')[0] in ('lightning', 'torch') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
