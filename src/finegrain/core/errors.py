"""The one exception whose text is a message to the user, and lists of names for such messages."""

from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix: the text names the file or the parameter, and the fix.

    ``process.run_main`` prints it without a traceback and exits with status 1.
    """


def some(names: Iterable[object], limit: int = 5) -> str:
    """The first names for a message, and how many more there are: ``a, b, c and 297 more``."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
