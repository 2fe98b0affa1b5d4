"""Packages of the extra ``app``, which some commands need and the pipeline does not."""

from collections.abc import Iterator
from contextlib import contextmanager

from finegrain.core.errors import UserError


@contextmanager
def required_for(what: str) -> Iterator[None]:
    """Context for imports of optional packages: a missing package becomes a message with the pip command.

    Args:
        what: the command or feature that needs the packages, for the message.

    Raises:
        UserError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).split(".")[0]
        raise UserError(
            f"{what} needs the package {package}, which is not installed: `make app` installs it, "
            "and so does pip install 'finegrain[app]' where finegrain is installed without a clone"
        ) from None
