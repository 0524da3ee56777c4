"""The modules of a package, and which of them a module imports, read from the sources."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules(package: str) -> dict[str, Path]:
    """The file of each module of a package, by the name in an import statement."""
    files = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imported(path: Path, names: set[str]) -> set[str]:
    """Those of the named modules that a file imports, in functions and under TYPE_CHECKING too."""
    imports = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, path)
            submodules = {f"{module}.{alias.name}" for alias in node.names} & names
            imports |= submodules or {module}
    return imports & names


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module of ``from MODULE import ...``, whose leading dots count the folders up from the file."""
    if not node.level:
        return node.module
    folder = path.relative_to(ROOT).parents[node.level - 1]
    return ".".join([*folder.parts, *filter(None, [node.module])])
