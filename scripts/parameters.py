"""Write docs/PARAMETERS.md and docs/params.schema.json from the typed parameters of finegrain.config.

    python scripts/parameters.py    (or `make docs`)

The text of a key is the docstring below its field; the order is that of the fields, which is params.yaml's.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import yaml  # noqa: E402
from pydantic.json_schema import GenerateJsonSchema  # noqa: E402

from finegrain.config.params import Params  # noqa: E402

PAGE, SCHEMA = ROOT / "docs" / "PARAMETERS.md", ROOT / "docs" / "params.schema.json"
INTRO = """\
# Parameters

Every key of `params.yaml`, in the order of that file. A key with a default may be left out. An unknown key, a
value of another type or one out of range stops the stage; the message names the key and what is allowed.

"Stages" are those that `dvc repro` runs again when the key, or one of the keys below, changes; those that use
their results follow. `dvc exp run -S lr=0.003` sets a key for an experiment, `-S +phases.all.clip_norm=1` one
that is not in the file yet.

Editors with the YAML language server (VS Code's YAML extension, Neovim, Helix, JetBrains) complete and check
the file as you type: its first line names [params.schema.json](params.schema.json), by the path from the
project's folder. So copy a recipe to `params.yaml` before you edit it.

`make docs` writes this page and the schema from `src/finegrain/config`.
"""
Schema = dict[str, Any]


class _Untitled(GenerateJsonSchema):
    """Leaves out a title for each field, which would repeat its key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema() -> Schema:
    """The JSON schema of params.yaml, with Markdown's backticks in place of those of docstrings."""
    text = json.dumps(Params.model_json_schema(schema_generator=_Untitled), ensure_ascii=False)
    schema = json.loads(text.replace("``", "`"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "params.yaml"}


def page(schema: Schema) -> str:
    """PARAMETERS.md: a table for each section, and one for each run of keys that have no section."""
    return "\n".join([INTRO, *_Page(schema).parts()])


class _Page:
    """The Markdown of all sections."""

    def __init__(self, schema: Schema) -> None:
        self.root, self.definitions = schema, schema["$defs"]
        self.headings: dict[str, str] = {}
        """Name of a definition, and the heading under which its keys are listed."""
        self.key = ""
        """The key whose row is written."""
        self.long_lists: dict[tuple[Any, ...], str] = {}
        """Values of which there are many, and the key where they are listed."""

    def parts(self) -> Iterator[str]:
        for keys in self._runs():
            title = ", ".join(f"`{key}`" for key in keys)
            yield f"## {title}\n"
            first = self.root["properties"][keys[0]]
            if self._is_section(first):
                yield f"Stages: {_stages(keys[0])}.\n"
                kinds = self._mappings(first)
                if len(kinds) > 1:
                    yield f"{_text(first)}\n"
                yield from self._kinds(title, first, 3 if len(kinds) > 1 else 2)
            else:
                yield self._table(self.root, keys, [_stages(key) for key in keys])
                for key in keys:
                    yield from self._kinds(f"`{key}`", self.root["properties"][key], 3)

    def _runs(self) -> Iterator[list[str]]:
        """The top-level keys: each section alone, those between two sections together."""
        properties = self.root["properties"]
        for is_section, group in itertools.groupby(properties, lambda key: self._is_section(properties[key])):
            keys = list(group)
            yield from [[key] for key in keys] if is_section else [keys]

    def _kinds(self, title: str, schema: Schema, level: int) -> Iterator[str]:
        """A table for each kind of mapping that a key may hold, unless it is listed already, and its own."""
        names = self._mappings(schema)
        for name in [name for name in names if name not in self.headings]:
            properties = self.definitions[name]["properties"]
            fixed = [f"{key}: {each['const']}" for key, each in properties.items() if "const" in each]
            kind = f", with `{fixed[0]}`" if fixed else ", with `epochs`" if len(names) > 1 else ""
            self.headings[name] = title + kind
            if level > 2:
                yield f"{'#' * level} {title}{kind}\n"
            yield f"{_text(self.definitions[name])}\n"
            keys = [key for key, each in properties.items() if "const" not in each]
            if keys:
                yield self._table(self.definitions[name], keys)
            for key in keys:
                yield from self._kinds(f"{title[:-1]}.{key}`", properties[key], max(level, 3))

    def _table(self, definition: Schema, keys: list[str], stages: list[str] | None = None) -> str:
        """A row for each key; with ``stages``, a column of them."""
        rows = [["key", "values", "default", "what it does"], ["---"] * 4]
        for key in keys:
            self.key, schema = key, definition["properties"][key]
            default = f"`{_default(schema['default'])}`" if "default" in schema else "required"
            rows.append([f"`{key}`", self._values(schema), default, _text(schema)])
        if stages is not None:
            for row, cell in zip(rows, ["stages", "---", *stages], strict=True):
                row.insert(3, cell)
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def _is_section(self, schema: Schema) -> bool:
        """Whether a value is always a mapping of keys that are known, or of names to such mappings."""
        options = schema.get("oneOf", schema.get("anyOf", [schema]))
        return all(self._mappings(option) for option in options)

    def _mappings(self, schema: Schema) -> list[str]:
        """Names of the definitions of mappings that a value, or one of its values, may be."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return [name] if "properties" in self.definitions[name] else []
        if entry := _entry(schema):
            return self._mappings(entry)
        options = schema.get("oneOf", schema.get("anyOf", []))
        return [name for option in options for name in self._mappings(option)]

    def _values(self, schema: Schema) -> str:
        """What a value may be, in words."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name in self.headings:
                return f"keys of {self.headings[name]}"
            definition = self.definitions[name]
            return "keys below" if "properties" in definition else self._values(definition)
        if options := schema.get("oneOf", schema.get("anyOf")):
            return " or ".join(dict.fromkeys(self._values(option) for option in options))
        if allowed := schema.get("enum", [schema["const"]] if "const" in schema else []):
            first = self.long_lists.setdefault(tuple(allowed), self.key) if len(allowed) > 6 else self.key
            if first != self.key:
                return f"a value of `{first}`"
            return ", ".join(f"`{value}`" for value in allowed)
        if schema["type"] in ("integer", "number"):
            return f"{schema['type']} {_range(schema)}"
        if "prefixItems" in schema:
            return f"{len(schema['prefixItems'])} values, each {self._values(schema['prefixItems'][0])}"
        if schema["type"] == "array":
            return f"list of: {self._values(schema['items'])}"
        if schema["type"] == "object":
            names = {"type": "string", **schema.get("propertyNames", {})}
            return f"{self._values(names)}: {self._values(_entry(schema) or {})}"
        return {"boolean": "`true`, `false`", "null": "`null`", "string": "text"}[schema["type"]]


def _entry(schema: Schema) -> Schema | None:
    """What a mapping of free names holds under each; None if it is no such mapping."""
    for entry in [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]:
        if isinstance(entry, dict):
            return entry
    return None


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    start = f"above {_number(above)}" if low is None else _number(low)
    return f"{start} to below {_number(below)}" if high is None else f"{start} to {_number(high)}"


def _number(value: float) -> str:
    return f"{int(value):,}" if 10_000 <= value < 1e10 else f"{value:g}"


def _default(value: Any) -> str:
    """As YAML writes it; a fraction such as 4/3 with seven digits."""
    if isinstance(value, list):
        return f"[{', '.join(_default(each) for each in value)}]"
    return f"{value:.7g}" if isinstance(value, float) and value % 1 else json.dumps(value).strip('"')


def _text(schema: Schema) -> str:
    """The description on one line, as a cell of a table needs it."""
    return " ".join(schema["description"].split()).replace("|", "\\|")


def _stages(key: str) -> str:
    """The stages of dvc.yaml that list the key as a whole."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return ", ".join(f"`{stage}`" for stage, entry in stages.items() if key in entry["params"]) or "none"


def main() -> None:
    schema = json_schema()
    SCHEMA.write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(schema), encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
