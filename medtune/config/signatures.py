"""The arguments that a dotted path accepts, read from its source without importing it.

Importing Lightning to learn the arguments of its Trainer costs seven seconds; parsing the file that
defines it costs milliseconds. Where the source does not tell (a compiled module, names made at run
time) the answer is ``UNKNOWN``, and the call itself will tell.
"""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Signature:
    """What a callable can be given by name.

    Attributes:
        names: Arguments that have a name, in order, without ``self``.
        required: Those of them that have no default.
        open: Whether further names are taken too (``**kwargs``).
    """

    names: tuple[str, ...]
    required: frozenset[str] = frozenset()
    open: bool = False


UNKNOWN = Signature(names=(), open=True)


@dataclass
class Module:
    """A module's file, parsed."""

    name: str
    is_package: bool
    names: dict[str, ast.stmt] = field(default_factory=dict)
    star_imports: list[ast.ImportFrom] = field(default_factory=list)
    is_dynamic: bool = False  # it makes names that its text does not show

    @property
    def package(self) -> str:
        """What a relative import in it starts from."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


@dataclass
class Definition:
    """A function or class, and the module whose names it uses."""

    module: Module
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def signature_of(target: str) -> Signature | None:
    """The signature of the function or class at ``target``; None when there is no such thing."""
    found = find(target)
    if found is None or isinstance(found, Signature):
        return found
    if isinstance(found.node, ast.ClassDef):
        return class_signature(found, set())
    return function_signature(found.node, skip_first=False)


def find(target: str) -> Definition | Signature | None:
    """The definition at a dotted path, ``UNKNOWN`` where the source does not tell, None where nothing is."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        path = module_file(".".join(parts[:length]))
        if path is None:
            continue
        if path.suffix != ".py":
            return UNKNOWN
        return find_attribute(parse_module(".".join(parts[:length]), path), parts[length:])
    return None


def find_attribute(module: Module, parts: list[str]) -> Definition | Signature | None:
    """Follows ``parts`` from a module into a class."""
    found = find_name(module, parts[0], frozenset())
    if len(parts) == 1 or not isinstance(found, Definition):
        return found
    if len(parts) > 2 or not isinstance(found.node, ast.ClassDef):
        return UNKNOWN
    method = method_of(found.node, parts[1])
    if method is None:
        return UNKNOWN if found.node.bases else None
    is_static = "staticmethod" in decorator_names(method)
    return function_signature(method, skip_first=not is_static)


def find_name(module: Module, name: str, seen: frozenset[tuple[str, str]]) -> Definition | Signature | None:
    """What ``name`` is in ``module``, following imports to where it is defined."""
    if (module.name, name) in seen:
        return None
    seen |= {(module.name, name)}
    node = module.names.get(name)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return Definition(module, node)
    if isinstance(node, ast.ImportFrom):
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        return find_imported(import_source(module, node), original, seen)
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
        return find_name(module, node.value.id, seen)
    if node is not None or module.is_dynamic:
        return UNKNOWN
    for star in module.star_imports:
        found = find_imported(import_source(module, star), name, seen)
        if found is not None:
            return found
    return None


def find_imported(source: str, name: str, seen: frozenset[tuple[str, str]]) -> Definition | Signature | None:
    """What ``from source import name`` gives."""
    path = module_file(source)
    if path is None or path.suffix != ".py":
        return UNKNOWN
    if module_file(f"{source}.{name}") is not None and name not in parse_module(source, path).names:
        return UNKNOWN  # a submodule, which cannot be called
    return find_name(parse_module(source, path), name, seen)


def import_source(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name of the module that an import statement names."""
    if not node.level:
        return node.module or ""
    base = module.package.split(".")
    base = base[: len(base) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


@cache
def module_file(name: str) -> Path | None:
    """The file of a module; only its top-level package is looked up, nothing is imported."""
    top, *rest = name.split(".")
    if not top.isidentifier() or top in sys.builtin_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and Path(spec.origin).is_file() else None
    for folder in spec.submodule_search_locations or ():
        found = file_below(Path(folder).joinpath(*rest))
        if found:
            return found
    return None


def file_below(path: Path) -> Path | None:
    """The file of the module at ``path`` without its suffix: a package, a source or a compiled module."""
    for candidate in (path / "__init__.py", path.with_name(path.name + ".py")):
        if candidate.is_file():
            return candidate
    return next(path.parent.glob(path.name + ".*.so"), None)


@cache
def parse_module(name: str, path: Path) -> Module:
    """The names that a module's text binds at its top level, inside ``if`` and ``try`` too."""
    module = Module(name, is_package=path.name == "__init__.py")
    for node in top_level(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            module.names[node.name] = node
            module.is_dynamic |= node.name == "__getattr__"
        elif isinstance(node, ast.ImportFrom):
            bind_imports(module, node)
        elif isinstance(node, ast.Import):
            module.names.update({(alias.asname or alias.name.split(".")[0]): node for alias in node.names})
        elif isinstance(node, ast.Assign):
            bind_assignment(module, node)
    return module


def bind_imports(module: Module, node: ast.ImportFrom) -> None:
    """Notes what a ``from`` import binds."""
    for alias in node.names:
        if alias.name == "*":
            module.star_imports.append(node)
        else:
            module.names[alias.asname or alias.name] = node


def bind_assignment(module: Module, node: ast.Assign) -> None:
    """Notes assigned names; a module that replaces itself in ``sys.modules`` hides its names."""
    for target in node.targets:
        if isinstance(target, ast.Name):
            module.names[target.id] = node
        elif ast.unparse(target).startswith("sys.modules["):
            module.is_dynamic = True


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported, those of ``if``, ``try`` and ``with`` included."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from top_level(node.body)
            yield from top_level(getattr(node, "orelse", []))
            for handler in getattr(node, "handlers", []):
                yield from top_level(handler.body)


def class_signature(found: Definition, seen: set[str]) -> Signature:
    """What calling a class takes: its ``__init__``, a dataclass's fields, or that of its bases."""
    assert isinstance(found.node, ast.ClassDef)
    method = method_of(found.node, "__init__") or method_of(found.node, "__new__")
    if method is not None:
        return function_signature(method, skip_first=True)
    bases = list(base_classes(found, seen))
    if "dataclass" in decorator_names(found.node):
        return dataclass_signature(found.node, bases, seen)
    for base in bases:
        if isinstance(base, Signature):
            return base
        return class_signature(base, seen)
    return Signature(names=())


def base_classes(found: Definition, seen: set[str]) -> Iterator[Definition | Signature]:
    """The classes that a class derives from; ``UNKNOWN`` for those whose source does not tell."""
    assert isinstance(found.node, ast.ClassDef)
    for base in found.node.bases:
        name = ast.unparse(base).split("[")[0]
        if name in ("object", "ABC", "Protocol", "Generic"):
            continue
        where = None if name in seen else find_name(found.module, name, frozenset())
        seen.add(name)
        yield where if isinstance(where, Definition) and isinstance(where.node, ast.ClassDef) else UNKNOWN


def dataclass_signature(node: ast.ClassDef, bases: list[Definition | Signature], seen: set[str]) -> Signature:
    """The fields of a dataclass after those of its bases."""
    inherited = [base if isinstance(base, Signature) else class_signature(base, seen) for base in bases]
    fields = [
        item
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item.annotation)
    ]
    names = [name for base in inherited for name in base.names]
    names += [item.target.id for item in fields if isinstance(item.target, ast.Name)]
    required = {item.target.id for item in fields if item.value is None and isinstance(item.target, ast.Name)}
    required |= {name for base in inherited for name in base.required}
    return Signature(tuple(dict.fromkeys(names)), frozenset(required), any(base.open for base in inherited))


def method_of(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """A method that the class itself defines."""
    return next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


def decorator_names(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Last names of the decorators: ``dataclass`` for ``@dataclasses.dataclass(frozen=True)``."""
    return {ast.unparse(item).split("(")[0].rpartition(".")[2] for item in node.decorator_list}


def function_signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, skip_first: bool) -> Signature:
    """The arguments of a function that can be given by name."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    without_default = positional[: len(positional) - len(arguments.defaults)]
    keyword_only = list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    by_name = arguments.args if arguments.posonlyargs else positional[1:] if skip_first else positional
    names = [item.arg for item in by_name] + [item.arg for item, _ in keyword_only]
    required = {item.arg for item in without_default} | {
        item.arg for item, value in keyword_only if value is None
    }
    return Signature(tuple(names), frozenset(required & set(names)), open=arguments.kwarg is not None)
