"""One file that parses answers alone, put together from the source of the modules that do it here.

A submission brings its parser along. Writing it twice would let the two drift apart, so the imports between
these modules are cut out and the rest is joined as it stands.
"""

from __future__ import annotations

import ast
from pathlib import Path

HEAD = '''\
"""Reads PromptCBLUE answers: python post_generate_process.py test_predictions.json results.json

Made by medtune for the protocol {protocol}. Standard library only; Python 3.8 or newer.
"""
'''
TAIL = """

if __name__ == "__main__":
    main(sys.argv[1:], "{protocol}")
"""
# In the order in which they need each other.
PARTS = ("errors", "protocols", "literals", "parsing", "post_process")
OWN_IMPORTS = ("medtune", "__future__")


def assemble_parser(protocol: str) -> str:
    """Returns the source of ``post_generate_process.py`` for a protocol."""
    folder = Path(__file__).parent
    imports: dict[str, set[str]] = {}
    bodies = []
    for name in PARTS:
        body = cut_imports((folder / f"{name}.py").read_text(encoding="utf-8"), imports)
        bodies.append(f"\n\n# ---- {name} ----\n\n{body}")
    head = [HEAD.format(protocol=protocol), "from __future__ import annotations\n", *write_imports(imports)]
    return "\n".join(head) + "\n" + "".join(bodies) + TAIL.format(protocol=protocol)


def cut_imports(source: str, imports: dict[str, set[str]]) -> str:
    """Returns a module without its imports, its docstring as comments; adds imports that are still needed.

    Args:
        source: The module.
        imports: The names that are imported from each module; none for a module that is imported itself.
    """
    module = ast.parse(source)
    lines = source.splitlines()
    for node in module.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for line in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[line] = ""
        if isinstance(node, ast.Import):
            imports |= {name.name: set() for name in node.names}
        elif str(node.module).split(".")[0] not in OWN_IMPORTS:
            imports.setdefault(str(node.module), set()).update(name.name for name in node.names)
    about = [f"# {line}".rstrip() for line in (ast.get_docstring(module) or "").splitlines()]
    body = "\n".join(lines[module.body[0].end_lineno :]).strip()
    return "\n".join([*about, "", "", body, ""])


def write_imports(imports: dict[str, set[str]]) -> list[str]:
    """Returns import statements, as a module begins with them."""
    whole = [f"import {module}" for module, names in sorted(imports.items()) if not names]
    parts = [
        f"from {module} import {', '.join(sorted(names))}"
        for module, names in sorted(imports.items())
        if names
    ]
    return whole + parts
