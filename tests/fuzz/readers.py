"""Fuzz a reader of platforms, guided by coverage: `python -m tests.fuzz.readers READER [DIRECTORY] [OPTIONS]`.

Needs `pip install -e '.[fuzz]'`. READER is one of `tests.fuzz.targets.TARGETS`; without one, their names are printed.
DIRECTORY is where inputs are kept between runs; the good files of the tests and the corpus that the tests replay are
put into it first. Without it, a run begins with those each time. OPTIONS are those of libFuzzer, as
`-max_total_time=60`. An input that brings a reader down is written to the working directory; put it into the corpus
once the reader is mended:

    python -m tests.fuzz.readers READER --add FILE...

After long runs, `python -m tests.fuzz.readers READER NEW -merge=1 DIRECTORY` takes the inputs that together reach the
same code, and `--keep NEW [BYTES]` in the place of a directory makes the smallest of them the corpus, up to so many
bytes.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pasidlab.platforms", "fdt"]):
    from tests.fuzz import targets

LIMITS = ["-timeout=5", "-rss_limit_mb=2048"]
MOST_KEPT = 24_000
"""How many bytes of a target's inputs are kept, before they are packed."""


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in targets.TARGETS:
        print(f"usage: python -m tests.fuzz.readers READER [DIRECTORY] [OPTIONS]\n{' '.join(targets.TARGETS)}")
        return 2
    name, *rest = arguments
    match rest:
        case ["--add", *files]:
            targets.keep(name, [*targets.corpus(name), *(Path(file).read_bytes() for file in files)])
        case ["--keep", directory, *most]:
            keep(name, Path(directory), int(most[0]) if most else MOST_KEPT)
        case [directory, *options] if not directory.startswith("-"):
            fuzz(name, Path(directory), options)
        case options:
            with tempfile.TemporaryDirectory() as directory:
                fuzz(name, Path(directory), options)
    return 0


def fuzz(name: str, directory: Path, options: list[str]) -> None:
    """Fuzz, which ends the process."""
    directory.mkdir(parents=True, exist_ok=True)
    most = targets.TARGETS[name].most
    for one in (good for good in (*targets.seeds(name), *targets.corpus(name)) if len(good) <= most):
        (directory / hashlib.sha1(one).hexdigest()).write_bytes(one)
    itself = f"{sys.executable} -m tests.fuzz.readers {name}"
    given = [itself, *LIMITS, f"-max_len={most}", str(directory), *options]
    atheris.Setup(given, lambda data: targets.run(name, data))
    atheris.Fuzz()


def keep(name: str, directory: Path, most: int) -> None:
    """Add the smallest inputs of a directory to the corpus; those that once brought a reader down stay in it."""
    kept, size = targets.corpus(name), 0
    found = {path.read_bytes() for path in directory.iterdir()} - {*kept, *targets.seeds(name)}
    for one in sorted(found, key=len):
        size += len(one)
        if size > most:
            break
        kept.append(one)
    print(f"{targets.keep(name, kept)}: {len(kept)} inputs")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
