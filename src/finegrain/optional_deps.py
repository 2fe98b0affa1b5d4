"""Packages that some commands need and the pipeline does not: requirements-app.txt."""

from collections.abc import Iterator
from contextlib import contextmanager

from finegrain.core.errors import UserError


@contextmanager
def required_for(what: str) -> Iterator[None]:
    """Wrap imports: a package that is not installed becomes one message that names the fix.

    Raises:
        UserError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).split(".")[0]
        raise UserError(
            f"{what} needs the package {package}, which is not installed: pip install -r requirements-app.txt"
        ) from None
