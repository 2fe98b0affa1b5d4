"""The stages of the repository's dvc.yaml, and the files that their scripts import."""

import ast
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def local_imports(script: Path) -> set[str]:
    """Files of src/ that a script needs: itself and all its imports, direct or not, also inside functions."""
    found: set[Path] = set()
    queue = [ROOT / script]
    while queue:
        file = queue.pop()
        if file in found:
            continue
        found.add(file)
        found.update(file.parent.glob(f"{file.stem}.*.j2"))  # a module's own template
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                parts = name.split(".")
                for depth in range(1, len(parts) + 1):
                    place = ROOT / "src" / Path(*parts[:depth])
                    for candidate in (place.with_suffix(".py"), place / "__init__.py"):
                        if candidate.is_file():
                            queue.append(candidate)
    return {str(file.relative_to(ROOT)) for file in found}


def script_of(stage: str) -> Path:
    """The script that a stage's command runs."""
    return Path(STAGES[stage]["cmd"].removeprefix("exec python3 ").split()[0])
