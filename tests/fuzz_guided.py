"""Feed a reader inputs that atheris makes, which looks for those that reach new code.

    python -m pip install atheris  # in no lock: it is for this alone
    PYTHONPATH=workflow python tests/fuzz_guided.py explain_params -runs=1000000

What is a fault is as in ``fuzz.py``, whose seeds it starts from; what comes after the reader's
name goes to libFuzzer. Readers whose work is done in Python gain most.
"""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["consilience", "csv", "yaml"]):
    import fuzz
    from consilience.errors import ConsilienceError


def main(name: str, *options: str) -> None:
    """Feed a reader until libFuzzer stops; a fault ends the process with its input in a file."""
    reader = fuzz.READERS[name]
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (place / "seeds").mkdir()
    seeds = reader.seeds()
    for number, (suffix, data) in enumerate(seeds):
        (place / f"seeds/{number}").write_bytes(data)
        (place / f"input{suffix}").write_bytes(data)
        with suppress(ConsilienceError):
            reader.read(place / f"input{suffix}")
    path = place / f"input{seeds[0][0]}"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        fuzz.watch(True)
        try:
            reader.read(path)
        except ConsilienceError:
            pass
        finally:
            fuzz.watch(False)

    os.chdir(place)
    sys.addaudithook(fuzz.audit)
    limits = [f"-timeout={fuzz.HANGS}", f"-rss_limit_mb={fuzz.MEMORY // 2**20}", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *limits, *options, str(place / "seeds")], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
