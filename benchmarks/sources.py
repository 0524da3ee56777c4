"""The source files of the kernels, and digests of their code. Imports no torch, so that it starts quickly.

A digest leaves out what no compiler sees: comments, docstrings and white space between tokens. A better
comment or another line break makes no measurement stale, a change of code does.

``python -m benchmarks.sources cuda`` prints :func:`digest` of that device.
"""

import hashlib
import io
import keyword
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The files whose change makes a number stale, for each fused provider on each device.
_SHARED = ("csrc/include/**/*", "csrc/bind/*")
SOURCES = {
    "native-cpu": (*_SHARED, "csrc/cpu/**/*", "csrc/bind/cpu/*"),
    "native-cuda": (*_SHARED, "csrc/cuda/**/*", "csrc/bind/cuda/*"),
    "triton-cuda": ("frs_kernels/contract.py", "frs_kernels/backends/triton/**/*.py"),
}

_CPP = re.compile(
    r"""
    \\\n | [^\S\n]+ | //(?:\\\n|[^\n])* | /\*.*?\*/                # not code
    | (?P<token>
        (?:u8|[uUL])?R"(?P<delimiter>[^()\\\s]*)\(.*?\)(?P=delimiter)"\w*
      | (?:u8|[uUL])?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')\w*
      | \.?\d(?:[eEpP][+-]|'?\w|\.)*                               # numbers, such as 1'000 and 0x1p-32f
      | \#[^\S\n]*define[^\S\n]+\w+\(?                             # of "A(x)", which "A (x)" is not
      | \w+
      | <<=|>>=|<=>|->\*|\.\.\.|\.\*|->|\+\+|--|<<|>>|&&|\|\||::|\#\#|[-+*/%&|^<>=!]=
      | \S
    )
    | (?P<line>\n)
    """,
    re.VERBOSE | re.DOTALL,
)
_DOCSTRING = re.compile(r"[rRuU]?[\"']")


def digests(device: str, root: Path = ROOT) -> dict[str, str]:
    """Digest of the kernel sources of each fused provider of a device."""
    return {name: digest_of(root, globs) for name, globs in SOURCES.items() if name.endswith("-" + device)}


def digest(device: str) -> str:
    """One digest of all kernels of a device."""
    return hashlib.sha256("".join(digests(device).values()).encode()).hexdigest()[:8]


def uncommitted(device: str, root: Path = ROOT) -> list[str] | None:
    """The kernel sources of a device that differ from the commit checked out; None where git cannot tell."""
    globs = {glob for name, globs in SOURCES.items() if name.endswith("-" + device) for glob in globs}
    command = ["git", "status", "--porcelain", "--no-renames", "--untracked-files=all", "--"]
    try:
        status = subprocess.run(
            [*command, *(f":(glob){glob}" for glob in globs)], cwd=root, capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return None if status.returncode else sorted(line[3:] for line in status.stdout.splitlines())


def digest_of(root: Path, globs: tuple[str, ...]) -> str:
    """Digest of the names and the code of the files that match."""
    content = hashlib.sha256()
    files = {file for pattern in globs for file in root.glob(pattern) if file.is_file()}
    for file in sorted(files):
        code = code_of(file.read_text(), python=file.suffix == ".py")
        content.update(f"{file.relative_to(root)}\0{code}\0".encode())
    return content.hexdigest()[:12]


def code_of(text: str, python: bool) -> str:
    """The tokens of a Python or C++ file, one per line, without comments and docstrings."""
    return "\n".join(_python_code(text) if python else _cpp_code(text))


def _cpp_code(text: str) -> list[str]:
    """Tokens. A line break that ends a preprocessor directive counts, as an empty token."""
    code, in_directive = [], False
    for match in _CPP.finditer(text):
        if token := match["token"]:
            in_directive |= token.startswith("#")
            code.append(re.sub(r"^#\s*define\s+", "#define ", token))
        elif match["line"] and in_directive:
            code.append("")
            in_directive = False
    return code


def _python_code(text: str) -> list[str]:
    """Tokens and the borders of statements and blocks. The width of an indentation does not count."""
    code, statement = [], []
    for kind, token in _python_tokens(text):
        if kind in ("INDENT", "DEDENT"):
            code.append(f"<{kind}>")
        elif kind == "NEWLINE":
            is_docstring = all(_DOCSTRING.match(token) for token in statement)
            code += [] if is_docstring else [*_without_trailing_commas(statement), "<NEWLINE>"]
            statement = []
        else:
            statement.append(token)
    return code


def _python_tokens(text: str):
    """(kind, text) of each token but comments. An f-string is one token, as it is before Python 3.12."""
    lines, starts = text.split("\n"), []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind.endswith("STRING_START"):  # FSTRING_START; TSTRING_START from Python 3.14 on
            starts.append(token.start)
        elif kind.endswith("STRING_END"):
            (row, column), (last_row, end) = starts.pop(), token.end
            if not starts:
                inside = lines[row - 1 : last_row - 1] + [lines[last_row - 1][:end]]
                yield "STRING", "\n".join(inside)[column:]
        elif not starts and kind not in ("COMMENT", "NL", "ENDMARKER"):
            yield kind, token.string


def _without_trailing_commas(statement: list[str]) -> list[str]:
    """Without the comma that a formatter adds to the last argument or element when it breaks a line.

    Only where a comma cannot make a tuple: in calls, parameters, lists, dictionaries and sets.
    """
    code, removable = [], []
    for token in statement:
        if token in ("(", "[", "{"):
            before = code[-1] if code else ""
            is_name = (
                before.isidentifier() and not keyword.iskeyword(before) and before not in ("match", "case")
            )
            follows_operand = is_name or before.endswith((")", "]", "}", '"', "'"))
            removable.append(token == "{" or follows_operand == (token == "("))
        elif token in (")", "]", "}") and removable.pop() and code[-1] == ",":
            code.pop()
        code.append(token)
    return code


if __name__ == "__main__":
    print(digest(sys.argv[1]))
