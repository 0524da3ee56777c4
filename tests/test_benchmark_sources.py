"""The digest of the kernel sources: it changes with the code, and with nothing else."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks import sources

CPP_TOKENS = [
    "a", "_b2", "R", "u8", "1'000'000", "0x1p-32f", ".5f", "1e+5", "42ull", '"text"', r'"a // \" b"', "'\\''",
    "'\"'", 'R"(a " // b\n)"', 'R"x(" )" )x"', 'u8"t"', '"km"_unit', "+", "++", "-", "->", "->*", "<",
    "<<", "<<=", "<=>", ">", ">>", "&", "&&", "&=", ".", ".*", "...", ":", "::", "(", ")", "{", "}", ";",
    "~", "?",
]  # fmt: skip
CPP_SPACES = [" ", "\n", "\t", "\n    ", " // why\n", " /* why */ ", "/* two\n lines */", " \\\n", "\n\n\n"]
PYTHON_TOKENS = [
    "a", "1.5e-3", "0x1F", "'t'", '"a # b"', '"""two\nlines"""', "f'{a!r} b'", 'rf"{a:>{b}} {{}}"', "+", "-",
    "**", "//", "//=", "->", ":=", "@", ".", "...", ":", "not", "in",
]  # fmt: skip
PYTHON_SPACES = [" ", "\n", "  # why\n", " \\\n", "\n\n        "]


def cpp(text: str) -> str:
    return sources.code_of(text, python=False)


def python(text: str) -> str:
    return sources.code_of(text, python=True)


@given(st.lists(st.tuples(st.sampled_from(CPP_TOKENS), st.sampled_from(CPP_SPACES))))
def test_cpp_code_is_its_tokens_whatever_is_between_them(pairs):
    assert cpp("".join(map("".join, pairs))) == "\n".join(token for token, _ in pairs)


@given(st.lists(st.tuples(st.sampled_from(PYTHON_TOKENS), st.sampled_from(PYTHON_SPACES))))
def test_python_code_is_its_tokens_whatever_is_between_them(pairs):
    tokens = ["(", *(token for token, _ in pairs), ")", "<NEWLINE>"]
    assert python(f"({''.join(map(''.join, pairs))})") == "\n".join(tokens)


@pytest.mark.parametrize(
    ("before", "same", "other"),
    [
        ('a = "//";  // one', '/* two\n lines */\n\na = "//";', 'a = "/";'),
        ("c = '\"';  // \"\nd;", "c = '\"';\nd;", "c = '\"';"),
        ('a = "x  y";', 'a =\n    "x  y";', 'a = "x y";'),
        ('a = R"(x\n  y)";', 'a = R"(x\n  y)";  // why', 'a = R"(x\ny)";'),
        ("f(a, b);", "f(a,\n  b);", "f(a b);"),
        ("a - -b;", "a -\n-b;", "a --b;"),
        ("a > > b;", "a >  > b;", "a >> b;"),
        ("int ab;", "int\nab;", "int a b;"),
        ("#define A b\nc;", "#  define A \\\n  b // why\n\n  c;", "#define A b c;\n"),
        ("#define F(x) y\n", "#define F( x )  y\n", "#define F (x) y\n"),
        (
            "#pragma unroll\nfor (;;) {}",
            "  #pragma unroll  // why\nfor (;;)\n{\n}",
            "#pragma unroll for (;;)\n{}",
        ),
    ],
)
def test_cpp_code(before, same, other):
    assert cpp(before) == cpp(same) != cpp(other)


@pytest.mark.parametrize(
    ("before", "same", "other"),
    [
        ('a = "#"  # one', '"""Two\n# lines."""\n\na = "#"', 'a = "# 3"'),
        ("def f():\n    return 1", 'def f():\n  """Why."""\n  return 1', "def f():\n    return 2"),
        ('a = """text"""', 'a = """text"""  # why', 'a = """ text"""'),
        ("if a:\n    b\n    c", "if a:\n\n  # why\n  b\n\n  c", "if a:\n    b\nc"),
        (
            "if a:\n    if b:\n        c\n    d",
            "if a:\n if b:\n  c\n\n d",
            "if a:\n    if b:\n        c\n        d",
        ),
        ("f(a, b)", "f(\n    a,\n    b,  # why\n)", "f(a), b"),
        ("a = [b]", "a = [\n    b,\n]", "a = [[b]]"),
        ("def f(a, b): c", "def f(\n  a, b,\n): c", "def f(a, *, b): c"),
        ("(a,)", "(\n    a,\n)", "(a)"),
        ("a[b,]", "a[\n    b,\n]", "a[b]"),
        ("return (a,)", "return (a, )", "return (a)"),
        ("a = b + c", "a = b \\\n  + c", "a = b\n+ c"),
        ("f'{a} b'", "f'{a} b'  # why", "f'{a}  b'"),
        ('g(f"{a}", f"""b\n{c}""")', 'g(\n  f"{a}",\n  f"""b\n{c}""",\n)', 'g(f"{a}", f"""b\n {c}""")'),
    ],
)
def test_python_code(before, same, other):
    assert python(before) == python(same) != python(other)


def meaning(text: str) -> str | None:
    """The syntax tree without docstrings, and None of what is no Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [part for part in node.body if not _is_text(part)]
    return ast.dump(tree)


def _is_text(statement) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str)


SNIPPET = (
    'def f(a, b=(1,)):\n    """Why."""\n    for c in a:\n        d = [c, "e  g"]  # h\n    return {d: b}\n'
)


@given(st.integers(0, len(SNIPPET)), st.integers(0, 3), st.text(" \n\t#\"',()ab1", max_size=3))
@example(0, 0, "")
def test_equal_python_code_has_an_equal_meaning(start, removed, added):
    edited = SNIPPET[:start] + added + SNIPPET[start + removed :]
    if (tree := meaning(edited)) and python(edited) == python(SNIPPET):
        assert tree == meaning(SNIPPET)


def test_another_indentation_of_the_triton_sources_is_the_same_code():
    for file in sorted(sources.ROOT.glob("frs_kernels/backends/triton/*.py")):
        text = file.read_text()
        wider = "\n".join(" " * (len(line) - len(line.lstrip(" "))) + line for line in text.split("\n"))
        assert python("# why\n\n" + wider.replace("\n\n", "\n\n\n")) == python(text), file


def test_another_format_of_the_cpp_sources_is_the_same_code():
    clang_format = shutil.which("clang-format", path=str(Path(sys.executable).parent)) or shutil.which(
        "clang-format"
    )
    if not clang_format:
        pytest.skip("clang-format is not installed")
    style = "{BasedOnStyle: LLVM, ColumnLimit: 60, IndentWidth: 8, SortIncludes: Never,"
    style += " BreakStringLiterals: false}"
    for file in sorted(sources.ROOT.glob("csrc/**/*.h")):
        text = file.read_text()
        command = [clang_format, f"--style={style}", f"--assume-filename={file.with_suffix('.cpp')}"]
        other = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
        assert other != text and cpp(other) == cpp(text), file


def test_a_digest_is_of_the_names_too(tmp_path):
    (tmp_path / "a.h").write_text("int a;\n")
    first = sources.digest_of(tmp_path, ("*",))
    (tmp_path / "a.h").rename(tmp_path / "b.h")
    assert sources.digest_of(tmp_path, ("*",)) != first


def test_uncommitted_are_the_kernel_sources_that_differ_from_the_commit(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert sources.uncommitted("cpu", tmp_path) is None
    folder = tmp_path / "csrc/cpu/isa"
    folder.mkdir(parents=True)
    git("init")
    (folder / "a.cpp").write_text("int a;\n")
    git("add", ".")
    git("commit", "-m", "one")
    (tmp_path / "README.md").write_text("no kernel\n")
    assert sources.uncommitted("cpu", tmp_path) == []
    (folder / "a.cpp").write_text("int b;\n")
    (tmp_path / "csrc/cpu/new.h").write_text("int c;\n")
    assert sources.uncommitted("cpu", tmp_path) == ["csrc/cpu/isa/a.cpp", "csrc/cpu/new.h"]
    assert sources.uncommitted("cuda", tmp_path) == []
