"""Packages of src/finegrain import each other one way only, as written down here; each is small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "finegrain"

ALLOWED = {
    "core": set(),
    "config": {"core"},
    "sources": {"core"},
    "sample": {"core", "sources"},
    "dataset": {"core", "config", "sources"},
    "runtime": {"core"},
    "augmentation": {"core", "config", "runtime"},
    "loading": {"core", "config", "runtime", "augmentation"},
    "models": {"core", "config", "runtime", "augmentation", "loading"},
    "ridge": {"core", "config", "runtime", "loading", "models"},
    "training": {"core", "config", "runtime", "augmentation", "loading", "models", "ridge"},
    "evaluation": {"core", "loading", "models"},
    "comparison": {"core", "models", "evaluation"},
    "serving": {"core", "config", "sources", "dataset", "runtime", "loading", "models", "evaluation"},
    "export": {
        "core", "config", "dataset", "runtime", "augmentation", "loading", "models", "comparison", "serving"
    },
    "experiments": {"core", "config", "evaluation", "comparison"},
    "search": {"core", "config", "evaluation", "comparison", "experiments"},
}  # fmt: skip
"""What each package may import. In this order every import points up: there is no circle."""
BESIDE = {"cli": {"core"}, "optional_deps": {"core"}}
"""Modules beside the packages; any package may import optional_deps but those that stages run."""
COMMANDS_ONLY = {"serving", "export", "experiments", "search"}
"""Packages that no stage imports."""


def imported_packages(file: Path) -> set[str]:
    """Packages, and modules beside them, that a file imports from finegrain, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "finegrain":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("finegrain."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("finegrain.")}
    return found


def test_every_package_is_written_down():
    assert {folder.name for folder in SRC.iterdir() if (folder / "__init__.py").is_file()} == set(ALLOWED)
    assert {file.stem for file in SRC.glob("*.py")} == {"__init__", *BESIDE}


@pytest.mark.parametrize("package", [*ALLOWED, *BESIDE])
def test_it_imports_what_it_may_and_nothing_else(package):
    files = (SRC / package).rglob("*.py") if package in ALLOWED else [SRC / f"{package}.py"]
    allowed = {package, *(ALLOWED | BESIDE)[package]}
    allowed |= {"optional_deps"} if package in COMMANDS_ONLY else set()
    for file in files:
        assert imported_packages(file) <= allowed, file


def test_imports_point_one_way():
    order = list(ALLOWED)
    for package, imported in ALLOWED.items():
        assert all(order.index(other) < order.index(package) for other in imported), package


@pytest.mark.parametrize("script", sorted((ROOT / "src").glob("*.py")), ids=lambda file: file.stem)
def test_stages_do_not_import_the_commands_packages(script):
    assert not imported_packages(script) & {*COMMANDS_ONLY, *BESIDE}
    assert script.stem == "train" or "training" not in imported_packages(script)


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_has_at_most_ten_modules_and_its_init_holds_no_code(package):
    modules = [file for file in (SRC / package).glob("*.py") if file.name != "__init__.py"]
    assert len(modules) <= 10
    init = ast.parse((SRC / package / "__init__.py").read_text())
    assert ast.get_docstring(init) and len(init.body) == 1
    described = {line.split()[0] for line in ast.get_docstring(init).splitlines()[2:] if line.strip()}
    assert {file.stem for file in modules} <= described


def test_no_module_is_longer_than_300_lines():
    files = [file for folder in ("src", "benchmarks", "scripts") for file in (ROOT / folder).rglob("*.py")]
    long = {str(f): n for f in files if (n := len(f.read_text().splitlines())) > 300}
    assert not long
