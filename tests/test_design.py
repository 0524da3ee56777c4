"""docs/design.md names modules, folders and imports that exist."""

import re
from itertools import pairwise

import imports

TEXT = (imports.ROOT / "docs/design.md").read_text()
DIAGRAM = re.search(r"```mermaid\n(.*?)```", TEXT, flags=re.DOTALL)[1]
LABEL = re.compile(r'(\w+)\["(.*?)"\]')


def boxes() -> dict[str, tuple[str, list[str]]]:
    """(package, [its files and folders in the label]) of each box of the diagram, by the name of the box."""
    result, package = {}, None
    for line in DIAGRAM.splitlines():
        for box, label in LABEL.findall(line):
            if line.strip().startswith("subgraph"):
                package = label.partition(":")[0]
            else:
                result[box] = package, re.findall(r"[\w/]+(?:\.py|\.h|/)(?!\w)", label)
    return result


def arrows() -> list[tuple[str, str]]:
    """The solid arrows, as pairs of names of boxes."""
    chains = [LABEL.sub(r"\1", line).split() for line in DIAGRAM.splitlines() if " --> " in line]
    return [pair for chain in chains for pair in pairwise(word for word in chain if word != "-->")]


def imports_of(package: str, importing: list[str], imported: list[str]) -> set[str]:
    """The modules that files and folders of a package import from others of the same package."""
    files = imports.modules(package)

    def inside(names):
        roots = [imports.ROOT / package / name for name in names]
        return {name for name, path in files.items() if any(path.is_relative_to(root) for root in roots)}

    return {
        name for module in inside(importing) for name in imports.imported(files[module], inside(imported))
    }


def test_the_boxes_of_the_diagram_exist():
    for box, (package, names) in boxes().items():
        assert names, f"no file or folder in {box}"
        assert [name for name in names if not (imports.ROOT / package / name).exists()] == []


def test_the_arrows_of_the_diagram_are_imports():
    box = boxes()
    inner = [(a, b) for a, b in arrows() if box[a][0] == box[b][0] and box[a][0] != "csrc"]
    assert len(inner) > 20
    assert [(a, b) for a, b in inner if not imports_of(box[a][0], box[a][1], box[b][1])] == []


def test_the_files_of_the_two_journeys_exist():
    journeys = "".join(re.findall(r"^## The path of .*?(?=^## )", TEXT, flags=re.DOTALL | re.MULTILINE))
    names = re.findall(r"`([\w/]+(?:\.py|/\w+))`", journeys)
    assert len(names) >= 7
    folders = (imports.ROOT, imports.ROOT / "frs_kernels", imports.ROOT / "frs_train")
    assert [name for name in names if not any((folder / name).exists() for folder in folders)] == []
