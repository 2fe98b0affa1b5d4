"""The one exception that is a message to the user."""


class UserError(Exception):
    """Something the user can mend: the text names the file or parameter and the cure.

    ``stage.main`` prints it without a traceback and exits with 1.
    """
