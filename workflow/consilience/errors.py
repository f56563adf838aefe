"""The one exception that a user is meant to read, and how what users bring is shown in it."""


class ConsilienceError(Exception):
    """Something the user can put right.

    The message is one line that says what is wrong, where (file, key, value) and what to do.
    A step that meets it prints the message without a traceback and fails.
    """


def shown(value: object, longest: int = 60) -> str:
    """Return ``repr(value)`` for a message: cut, and at a cost that has a bound.

    Values come out of files of users. Lists that hold one another write themselves out without
    end, deep ones raise, and so do integers of many digits. Of these the type is said alone, and of
    what is no plain value.
    """
    left, waiting = 200, [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        count = len(part) if isinstance(part, dict | list | tuple | set | frozenset) else 0
        left -= 1 + count
        name = type(value).__name__
        name = f"{'an' if name == 'int' else 'a'} {name}"
        if left < 0 or depth > 20 or (isinstance(part, int) and part.bit_length() > 1000):
            return f"{name} too large to show"
        if type(part).__module__ not in ("builtins", "collections", "datetime"):
            return name
        if count:
            items = [*part, *part.values()] if isinstance(part, dict) else part
            waiting += [(item, depth + 1) for item in items]
    text = repr(value if not isinstance(value, str | bytes) else value[: longest + 1])
    return text if len(text) <= longest else text[: longest - 3] + "..."


def printable(name: object) -> str:
    """Return a name of a file for a message: on one line, with what cannot be seen escaped."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
