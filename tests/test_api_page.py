"""docs/api.md against the package: names, signatures, examples, and what its tables say of other calls."""

import ast
import doctest
import importlib
import inspect
import re

import imports
import pytest
import torch
import torch.nn.functional as F

import frs_kernels
import frs_kernels as frs

TEXT = (imports.ROOT / "docs/api.md").read_text()
PUBLIC = [getattr(frs, name) for name in frs.__all__ if name != "reference"]
INTEGRATIONS = {"ultralytics": "ultralytics", "torchdistill": "torchdistill", "mmrazor": "mmengine"}


def section(title: str) -> str:
    return re.search(rf"^## {re.escape(title)}$.*?(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the tables of a section, without the lines of the headings."""
    tables = re.findall(r"^\|[- |]+\|\n((?:\|.*\|\n)+)", section(title), flags=re.MULTILINE)
    return [[cell.strip() for cell in line[2:-2].split(" | ")] for line in "".join(tables).splitlines()]


def only_code(cell: str) -> str | None:
    """The code of a cell that is nothing but code."""
    code = re.fullmatch(r"`([^`]+)`", cell)
    return code and code[1]


def first_code(cell: str) -> str:
    return re.match(r"`([^`]+)`", cell)[1]


def described(signature: inspect.Signature) -> list[tuple]:
    """What a reader of a signature needs: names, kinds and defaults."""
    return [(p.name, p.kind, p.default) for p in signature.parameters.values() if p.name != "self"]


def written(arguments: str) -> inspect.Signature:
    """The signature that is written as ``(a, b=1, *, c=2)``."""
    names = {}
    exec(f"def function{arguments}: ...", names)
    return inspect.signature(names["function"])


def public_signatures() -> dict[str, inspect.Signature]:
    """Those of the public functions and classes, and of the methods that the classes define."""
    result = {}
    for thing in PUBLIC:
        result[thing.__name__] = inspect.signature(thing)
        for name, method in vars(thing).items() if inspect.isclass(thing) else ():
            if inspect.isfunction(method) and not name.startswith("_") and name != "extra_repr":
                result[f"{thing.__name__}.{name}"] = inspect.signature(method)
    return result


def test_every_signature_is_on_the_page_as_it_is():
    blocks = "\n".join(re.findall(r"^```python\n(.*?)```", TEXT, flags=re.DOTALL | re.MULTILINE))
    shown = {
        name: described(written(arguments))
        for name, arguments in re.findall(r"^([\w.]+)(\([^()]*\))", blocks, flags=re.MULTILINE)
    }
    assert shown == {name: described(signature) for name, signature in public_signatures().items()}


def test_every_public_name_has_a_section():
    assert sorted(re.findall(r"^### (\w+)$", TEXT, flags=re.MULTILINE)) == sorted(frs.__all__)


def test_the_examples_of_the_page():
    """Without the fences, which doctest would take for output."""
    text = re.sub(r"^```.*$", "", TEXT, flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {}, "docs/api.md", "docs/api.md", 0)
    assert len(examples.examples) > 30
    report = []
    result = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(
        examples, out=report.append
    )
    assert result.failed == 0, "".join(report)


def entry_points() -> list:
    """(module of frs_kernels.integrations, entry point, written arguments)"""
    return [
        (module.strip("`"), name, arguments)
        for module, cell, *_ in rows("Integrations")
        for name, arguments in re.findall(r"`(\w+)(\(.*?\))`", cell)
    ]


@pytest.mark.parametrize("module, name, arguments", entry_points())
def test_the_entry_points_of_the_integrations(module, name, arguments):
    if module in INTEGRATIONS:
        pytest.importorskip(INTEGRATIONS[module])
    entry_point = getattr(importlib.import_module(f"frs_kernels.integrations.{module}"), name)
    actual = described(inspect.signature(entry_point))
    if arguments.endswith("...)"):
        shown = described(written(arguments.replace("...", "")))
        assert shown == actual[: len(shown)]
    else:
        assert described(written(arguments)) == actual


SHAPE = 2, 3, 4, 5  # of features and logits in the tables


def tensors() -> dict[str, torch.Tensor]:
    """The names in the tables of calls."""
    x, y, s, T = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = {"ones": torch.ones(2, 4, 5), "S": x[:, 0].sigmoid(), "S2": x[:, 1].sigmoid()}
    labels = (y > 0.5).double()
    return {"x": x, "y": y, "s": s, "T": T, "labels": labels, "c": torch.ones(2, 3), **masks}


def calls_of_other_libraries() -> list:
    """(library, call there, call here) of the rows that have both."""
    table = rows("The names of other libraries")
    cells = [(library, only_code(there), only_code(here)) for library, there, here in table]
    return [(library, there, here) for library, there, here in cells if there and here and "(" in here]


@pytest.mark.parametrize("library, there, here", calls_of_other_libraries())
def test_calls_of_other_libraries_compute_the_same(library, there, here):
    names = {"F": F, "torch": torch, **tensors()}
    if library == "torchvision":
        names["sigmoid_focal_loss"] = pytest.importorskip("torchvision").ops.sigmoid_focal_loss
    if library == "Ultralytics":
        pytest.importorskip("ultralytics", minversion="8.4.80")
        model = importlib.import_module("ultralytics.nn.distill_model").DistillationModel
        names |= {"loss_sl2": lambda *arguments: model.loss_sl2(None, *arguments), "feat_idx": 0}
        names |= {"student_feat": names["x"], "teacher_feat": names["y"]}
        names["teacher_scores"] = (names["S"].flatten(1).unsqueeze(1),)
    ours = {function.__name__: function for function in PUBLIC}
    expected = eval(there, names)
    torch.testing.assert_close(eval(here, names | ours), expected, rtol=1e-9, atol=0)


def test_calls_of_three_libraries_are_compared():
    libraries = {library for library, *_ in calls_of_other_libraries()}
    assert libraries == {"PyTorch", "torchvision", "Ultralytics"}


def names_of_migration() -> dict:
    levels = tensors()
    names = {**vars(frs), **levels, "frs_kernels": frs_kernels}
    names["loss"] = frs.frs_loss(levels["x"], levels["y"], masks=levels["S"])
    names["distil"] = frs.FRSDistillationLoss(3, 3, 1, adapter="identity")
    return names


@pytest.mark.parametrize("before, error", [(cells[0], cells[2]) for cells in rows("Changes since 0.1.0")])
def test_an_old_call_fails_with_the_error_on_the_page(before, error):
    """Newer versions of Python add a suggestion to the message."""
    kind, _, message = only_code(error).partition(": ")
    with pytest.raises((AttributeError, TypeError, ValueError, RuntimeError)) as caught:
        exec(first_code(before), names_of_migration())
    assert type(caught.value).__name__ == kind
    assert str(caught.value).startswith(message) and message


PAGES = [imports.ROOT / "README.md", *sorted((imports.ROOT / "docs").glob("*.md"))]


def public_calls(code: str) -> list[tuple[inspect.Signature, ast.Call]]:
    """The calls of public functions, and of FRSDistillationLoss objects, in Python code."""
    tree = ast.parse(code)
    signatures = {name: value for name, value in public_signatures().items() if "." not in name}
    forward = written("(student_feats, teacher_feats, *, student_logits=0, teacher_logits=0, masks=0)")
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if "FRSDistillationLoss" in ast.unparse(node.value.func):
                signatures[ast.unparse(node.targets[0])] = forward
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [(ast.unparse(call.func).removeprefix("frs."), call) for call in calls]
    return [(signatures[name], call) for name, call in named if name in signatures]


def bound(signature: inspect.Signature, call: ast.Call) -> inspect.BoundArguments:
    """Raises TypeError if the call does not fit. An ellipsis stands for what is left out."""
    given = [value for value in call.args if ast.unparse(value) != "..."]
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    bind = signature.bind_partial if "..." in ast.unparse(call) else signature.bind
    return bind(*given, **keywords)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_the_pages_calls_functions_as_they_are(page):
    text = page.read_text()
    blocks = [] if page.name == "api.md" else re.findall(r"^```python\n(.*?)```", text, re.DOTALL | re.M)
    for code in blocks:
        for signature, call in public_calls(code):
            bound(signature, call)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_calls_within_a_sentence_or_a_table_name_the_arguments_as_they_are(page):
    """They fit the signatures, and an argument with the name of a parameter is passed to that parameter."""
    text = page.read_text().replace(section("Changes since 0.1.0"), "")
    names = "|".join(frs.__all__)
    for code in re.findall(rf"`((?:frs\.)?(?:{names})\([^`]*\))`", text):
        for signature, call in public_calls(code):
            for name, value in bound(signature, call).arguments.items():
                if isinstance(value, ast.Name) and value.id in all_parameters():
                    assert value.id == name, code


def all_parameters() -> set[str]:
    return {name for signature in public_signatures().values() for name in signature.parameters}
