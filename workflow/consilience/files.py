"""Files that users bring: read whole, and nothing that is not a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import ConsilienceError, printable

LARGEST_PICTURE = 2**30
"""Bytes. The largest picture that is decoded (89 million pixels) has half of that at 16 bits."""
LARGEST_TEXT = 2**26
"""Bytes of a list of words, a table or a configuration: some millions of lines."""

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def find_fault(path: str | Path, largest: int | None = None) -> str | None:
    """Say why a path cannot be read as a file, as far as that is known without opening it.

    None where nothing is against it. What is no file is not opened: reading a named pipe would
    wait for ever, and opening a device may do anything.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            return f"is a link that leads nowhere ({error.strerror})"
        return f"cannot be read ({error.strerror})"
    except ValueError as error:  # a path with a null character
        return f"cannot be read ({error})"
    if not stat.S_ISREG(state.st_mode):
        kind = next((said for check, said in _KINDS if check(state.st_mode)), "something else")
        return f"is {kind}, not a file"
    if largest is not None and state.st_size > largest:
        return f"has {state.st_size / 1e6:,.0f} MB; at most {largest / 1e6:,.0f} MB are read"
    return None


def read_file(path: str | Path, largest: int | None = None) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    ConsilienceError
        If it is missing, may not be read, is no file, or has more than ``largest`` bytes: begins
        with its path.
    """
    if fault := find_fault(path, largest):
        raise ConsilienceError(f"{printable(path)}: {fault}")
    try:
        # Were it exchanged for a named pipe in between, opening it would still not wait.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConsilienceError(f"{printable(path)}: is not a file any more")
            return file.read()
    except OSError as error:
        raise ConsilienceError(f"{printable(path)}: cannot be read ({error.strerror})") from None


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, without a byte order mark; line ends stay as they are.

    Raises
    ------
    ConsilienceError
        As :func:`read_file` does, or if it is not UTF-8 or holds null characters, as the own
        formats of spreadsheets and word processors do: names the line.
    """
    data = read_file(path, LARGEST_TEXT)
    try:
        text = data.decode("utf-8-sig")
        end = data.find(b"\0")
    except UnicodeDecodeError as error:
        end = error.start
    if end >= 0:
        line = data[:end].count(b"\n") + 1
        raise ConsilienceError(
            f"{printable(path)}, line {line}: not UTF-8 text (byte {end}); save it as UTF-8"
        )
    return text


def make_folder(path: str | Path) -> None:
    """Make a folder for results, or see that it can be written.

    Raises
    ------
    ConsilienceError
        If it cannot.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        reason = None if os.access(path, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ConsilienceError(
            f"{printable(path)}: results cannot be written there ({reason}); make that folder "
            "writable, or run Snakemake with another --directory"
        )
