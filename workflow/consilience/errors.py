"""The one exception that a user is meant to read."""


class ConsilienceError(Exception):
    """Something the user can put right.

    The message is one line that says what is wrong, where (file, key, value) and what to do.
    A step that meets it prints the message without a traceback and fails.
    """
