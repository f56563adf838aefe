"""What every step of the workflow does around its one call: log, readable failure."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConsilienceError


class Finished(Exception):
    """Ends a step, since what it was to make is there."""


@contextmanager
def logged(path: str | Path) -> Iterator[Callable[[str], None]]:
    """Run a step: lines go to its log with the time since it began, and the library's messages too.

    The last line says what the step took without start-up and imports, whose processor time stands
    beside it. A :class:`ConsilienceError` ends the step with its message alone, in the log and on
    the standard error stream; any other exception is a fault of ours and keeps its traceback, there
    and in the log. A disk too full for the log ends nothing: what is left may do for the result.
    """
    # What was imported stays: looking through PyTorch's third of a million objects for what can go
    # takes a quarter of a second each time.
    gc.freeze()
    gc.enable()  # which the package's import turned off
    began, before = time.monotonic(), time.process_time()
    with open(path, "wb", buffering=0) as file:
        failed = False

        def log(line: str) -> None:
            nonlocal failed
            text = f"[{time.monotonic() - began:7.1f} s] {line}\n"
            try:
                file.write(text.encode(errors="backslashreplace"))
            except OSError as error:
                if not failed:
                    print(f"{path}: cannot be written ({error.strerror})", file=sys.stderr)
                failed = True

        class Messages(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
                log(level + record.getMessage())

        library, messages = logging.getLogger(__package__), Messages()
        library.addHandler(messages)
        library.setLevel(logging.INFO)
        try:
            yield log
        except Finished:
            pass
        except ConsilienceError as error:
            log(f"error: {error}")
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception:
            import traceback

            log(traceback.format_exc())
            raise
        finally:
            library.removeHandler(messages)
            # At the end of the process too, or else some packages say that they were leaked.
            gc.unfreeze()
        wall, cpu = time.monotonic() - began, time.process_time() - before
        log(f"done: {wall:.2f} s, processor {cpu:.2f} s; start-up before it {before:.2f} s")
