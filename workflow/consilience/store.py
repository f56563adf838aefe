"""What studies have in common, kept once: a store of outputs by what led to them.

An entry is a folder named by a digest of all that an output depends on: the code and package
versions of its step, its parameters, and the content of its inputs. Whoever needs the same takes a
copy; whoever makes it first leaves a second name (hard link) of its files here, which takes no
room. Nothing is trusted: content is hashed when it is kept, and again when it is taken.

The store can be deleted at any time, also in part. What no study holds any more and none has taken
for a month goes by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from .devices import choose_kind
from .files import TEMPORARY
from .locks import locked, try_lock
from .steps import Finished

DAYS = 30
"""How long what no study holds is kept after it was last taken."""

_ENTRY = "entry.json"


@contextmanager
def shared(step, log: Callable[[str], None]) -> Iterator[None]:
    """Take a step's outputs from the store if they are there; else let it make them, and keep them.

    Where they are there the block does not run, and the step is done
    (:class:`consilience.steps.Finished`). Where another study is making the same right now it is
    waited for; were it killed, this step makes it. A store that cannot be used is done without.

    Parameters
    ----------
    step
        What Snakemake tells a script of its job: the object ``snakemake``. The study's ``store``
        is the folder; without one nothing is shared.
    log
        Takes a line.
    """
    if not (folder := step.config.get("store")):
        yield
        return
    store, key, outputs = Store(folder), describe(step), list(step.output)
    step.device = kind = _kind_of(step)
    with ExitStack() as stack:
        try:
            wait = partial(log, "another study is making the same; waiting for it")
            stack.enter_context(store.locked(key, wait))
            if store.take(key, outputs):
                log(f"there already: taken from {Path(folder, key)}")
                raise Finished
        except OSError as error:
            log(f"warning: nothing is shared, as {folder} cannot be used ({error.strerror})")
            store = None
        yield
        try:
            # Not what was computed elsewhere than it was to be, as PyTorch could not use the GPU.
            if store is not None and step.device == kind:
                store.keep(key, outputs, f"{step.rule}: {', '.join(outputs)}")
        except OSError as error:
            log(f"warning: not kept for other studies in {folder} ({error.strerror})")


def _kind_of(step) -> str:
    return choose_kind(step.config.get("device", "auto"), step.resources.get("gpu", 0))


def describe(step) -> str:
    """Return the key of what a step makes: its code, parameters, wildcards and inputs' content.

    The input ``check`` does not count: its content is another in every study, and no step that is
    shared reads it; nor does the parameter ``named``, a digest of the others. The kind of device
    does, since last digits differ between kinds.
    """
    check = step.input.get("check")
    about = {
        "params": {key: value for key, value in step.params.items() if key != "named"},
        "wildcards": dict(step.wildcards.items()),
        "inputs": {
            name: 1 if isinstance(paths, str) else len(paths)
            for name, paths in step.input.items()
            if name != "check"
        },
        "outputs": [Path(output).suffix for output in step.output],
        "device": _kind_of(step),
    }
    return make_key(about, [path for path in step.input if path != check])


def make_key(about: Mapping, inputs: Iterable[str | Path]) -> str:
    """Return the digest that names an entry.

    Parameters
    ----------
    about
        What the outputs depend on beside the inputs' content; built-in types only.
    inputs
        Files, in an order that means the same for everybody. Their names do not count.
    """
    said = [about, [hash_file(path) for path in inputs]]
    text = json.dumps(said, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """A folder of entries.

    Parameters
    ----------
    folder
        Made when the first entry is.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def locked(self, key: str, wait=lambda: None):
        """Hold an entry's lock while the block runs, so that the same is made by one alone."""
        return locked(self.folder / "locks" / key, wait)

    def take(self, key: str, outputs: Sequence[str | Path]) -> bool:
        """Put copies of an entry's files in place of ``outputs``, all or none.

        Returns False where there is no such entry, or what it holds is not what was kept; that one
        is removed.
        """
        place = self.folder / key
        try:
            hashes = json.loads((place / _ENTRY).read_text())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        parts: list[Path] = []
        try:
            for number, output in enumerate(map(Path, outputs)):
                output.parent.mkdir(parents=True, exist_ok=True)
                parts.append(_copy(place / str(number), output))
                if hash_file(parts[-1]) != hashes[number]:
                    raise ValueError
            for part, output in zip(parts, outputs, strict=True):
                os.replace(part, output)
            os.utime(place)
        except (FileNotFoundError, ValueError, IndexError, TypeError):
            shutil.rmtree(place, ignore_errors=True)
            return False
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
        return True

    def keep(self, key: str, outputs: Sequence[str | Path], what: str) -> None:
        """Keep files under a key that has no entry; whoever does so holds the entry's lock.

        Parameters
        ----------
        key, outputs
            As for :meth:`take`; in the same order.
        what
            What it is, for a reader of the store.

        Raises
        ------
        OSError
            If the store cannot be written to; nothing of the entry is left then.
        """
        part = self.folder / f".{key}"
        shutil.rmtree(part, ignore_errors=True)  # what a killed step left
        try:
            part.mkdir(parents=True)
            for number, output in enumerate(outputs):
                try:
                    os.link(output, part / str(number))
                except OSError:  # another file system, or one without hard links
                    shutil.copyfile(output, part / str(number))
            entry = {"what": what, "sha256": [hash_file(output) for output in outputs]}
            (part / _ENTRY).write_text(json.dumps(entry, indent=1) + "\n")
            shutil.rmtree(self.folder / key, ignore_errors=True)
            os.rename(part, self.folder / key)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def prune(self, days: float = DAYS) -> list[str]:
        """Remove entries that no study holds and none has taken for so many days.

        A study holds what it made: its file and the entry's are one, with two names. Returns the
        keys of what was removed.
        """
        pruned, before = [], time.time() - days * 24 * 3600
        for place in self.folder.glob("[!.]*/entry.json"):
            place = place.parent
            try:
                held = any(path.stat().st_nlink > 1 for path in place.iterdir())
                if held or place.stat().st_mtime > before:
                    continue
                if (lock := try_lock(self.folder / "locks" / place.name)) is None:
                    continue
                with lock:
                    shutil.rmtree(place)
                    (self.folder / "locks" / place.name).unlink()
            except OSError:  # another process is at it, or it is not ours to remove
                continue
            pruned.append(place.name)
        return sorted(pruned)


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, without holding it in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, target: Path) -> Path:
    """Copy a file beside ``target``, and return the copy's path."""
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=f"{TEMPORARY}{target.name}-")
    os.close(handle)
    try:
        shutil.copyfile(source, part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # what has its name is whole, whenever the power goes
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, 0o666 & ~umask)  # mkstemp makes files private
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return Path(part)
