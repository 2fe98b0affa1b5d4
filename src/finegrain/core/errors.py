"""The one exception whose text is a message to the user."""


class UserError(Exception):
    """An error that the user can fix: the text names the file or the parameter, and the fix.

    ``process.run_main`` prints it without a traceback and exits with status 1.
    """
