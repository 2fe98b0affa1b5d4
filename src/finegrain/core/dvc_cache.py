"""What dvc.lock records, and which files DVC's cache has of it; DVC itself would take a second to import."""

import configparser
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finegrain.core import file_io, paths
from finegrain.core.errors import UserError

LOCK = Path("dvc.lock")


def recorded_outputs() -> dict[str, Mapping[str, Any]]:
    """md5 and size of each output of all stages, by path; none without a dvc.lock.

    Raises:
        UserError: dvc.lock is not what DVC writes, as after a merge with conflicts.
    """
    import yaml  # not above: a Python without packages must get as far as process.py's message

    if not LOCK.is_file():
        return {}
    try:
        content = yaml.load(LOCK.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        stages = content["stages"].values()
        return {out["path"]: out for stage in stages for out in stage.get("outs", [])}
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, UnicodeDecodeError):
        raise UserError(f"{LOCK}: not what DVC writes; `git checkout -- {LOCK}` restores it") from None


def members(folder_md5: str) -> dict[str, str] | None:
    """md5 of each file of an output that is a folder, by its path inside; None if the cache has no list."""
    listing = _cached_file(folder_md5)
    if not listing.is_file():
        return None
    return {each["relpath"]: each["md5"] for each in file_io.read_json(listing)}


def cached_members(folder: Path) -> dict[str, Path]:
    """Where the cache has each file of an output folder that dvc.lock records, by its path inside.

    Empty if dvc.lock records no such folder, the cache lacks it, or one of them is damaged.
    """
    with contextlib.suppress(UserError, LookupError, TypeError, AttributeError):
        md5 = recorded_outputs()[str(folder)]["md5"]
        return {name: _cached_file(each) for name, each in (members(md5) or {}).items()}
    return {}


def _cached_file(md5: str) -> Path:
    return _cache_folder() / "files" / "md5" / md5[:2] / md5[2:]


def _cache_folder() -> Path:
    """``cache.dir`` of the project's DVC, or its default."""
    for file in (Path(".dvc/config.local"), Path(".dvc/config")):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        if given := parser.get("cache", "dir", fallback=""):
            return file.parent / os.path.expanduser(given.strip("'\""))
    return paths.workspace() / ".dvc" / "cache"
