"""Copy what bears on PASIDs off a running host: read only, no root needed where the kernel does not demand it.

Source: see `wanted`. Decided here: a capture is written whole or not at all, beside its place first; what cannot be
read is named with the reason, and nothing that one file does stops the rest. A file that answers with less than its
size is taken as it is, and named too: the kernel shows users 64 bytes of configuration space, and root all of it. There
is no time in a capture.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from gzip import GzipFile
from pathlib import Path

from pasidlab import __version__
from pasidlab.errors import InputError
from pasidlab.platforms.host.collect import Answer, Task, collect
from pasidlab.platforms.host.kmsg import DMESG
from pasidlab.platforms.host.manifest import FORMAT, NAME, FileEntry, Manifest, Missing
from pasidlab.platforms.host.paths import join
from pasidlab.platforms.host.processors import machine_of
from pasidlab.platforms.host.tree import read_text
from pasidlab.platforms.host.trees import HostTree
from pasidlab.platforms.host.wanted import FILES, LEFT_OUT, LINKS, LOGS, PLATFORM, SKIPPED, Wanted

PACKED = (".tar.gz", ".tgz")
"""A capture that is named so is an archive, others are directories."""
MOST_TOTAL = 192 << 20
"""Most bytes of a capture."""
CONFIG_BYTES = 4096
USER_CONFIG = 64
"""Bytes of configuration space that the kernel shows without root."""
RELEASE = "proc/sys/kernel/osrelease"

Progress = Callable[[int, int], None]
"""Told how many files are done, and of how many."""


def capture(root: str | Path, into: str | Path, *, progress: Progress | None = None) -> Manifest:
    """Capture the host at `root` into a directory that does not exist or is empty, or into a new .tar.gz.

    Raises InputError for a place that cannot be written, and for a root that is none.
    """
    source, place = HostTree(root), Path(into)
    if not source.root.is_dir():
        raise InputError(f"{root}: is no directory")
    with _beside(place) as beside:
        store = _Archive(beside) if place.name.endswith(PACKED) else _Folder(beside)
        try:
            manifest = _Capture(source, store, progress or (lambda done, of: None)).take()
        finally:
            store.close()
    return manifest


class _Capture:
    """A capture that is being taken."""

    def __init__(self, tree: HostTree, store: _Folder | _Archive, progress: Progress) -> None:
        self.tree, self.store, self.progress = tree, store, progress
        self.files: list[FileEntry] = []
        self.missing: list[Missing] = []
        self.total = 0
        self._listed: dict[str, list[str]] = {}

    def take(self) -> Manifest:
        """Take everything, and return what the manifest says."""
        release = read_text(self.tree, RELEASE) or ""
        tasks = list(self._tasks(release))
        for done, answer in enumerate(collect(tasks, self.tree.get), 1):
            self._keep(answer)
            self.progress(done, len(tasks))
        self._log()
        processors = read_text(self.tree, "proc/cpuinfo") or ""
        manifest = Manifest(
            format=FORMAT,
            tool=f"pasidlab {__version__}",
            release=release,
            machine=machine_of(processors),
            files=sorted(self.files, key=lambda entry: entry.path),
            links=dict(sorted(self._links())),
            missing=sorted(self.missing, key=lambda one: one.path),
            left_out=list(LEFT_OUT),
        )
        self.store.add(NAME, manifest.to_json())
        return manifest

    def _tasks(self, release: str) -> Iterator[Task]:
        """Yield the files to read, each once."""
        seen = set[str]()
        for wanted in FILES:
            if "{release}" in wanted.pattern and not release:
                continue
            for path in self._expand(wanted.pattern.replace("{release}", release)):
                if path not in seen and self.tree.is_file(path):
                    seen.add(path)
                    yield Task(path, wanted)

    def _log(self) -> None:
        """Take the kernel's log from the first place that has it; say why not where none has."""
        failed = []
        for wanted in LOGS:
            answer = next(collect([Task(wanted.pattern, wanted)], self.tree.get))
            if answer.data:
                self._keep(answer)
                return
            if wanted.pattern == DMESG or self.tree.is_file(wanted.pattern):
                failed.append(f"{wanted.pattern}: {answer.error or 'empty'}")
        self.missing.append(Missing(DMESG, "; ".join(failed).removeprefix(f"{DMESG}: ")))

    def _keep(self, answer: Answer) -> None:
        """Write what was read, or why it was not."""
        path, wanted = answer.task
        data, error = answer.data, answer.error
        if data is not None and wanted.keep is not None:
            data, error = _kept(data, wanted)
        if data is not None and self.total + len(data) > MOST_TOTAL:
            data, error = None, f"left out, for all files together have {MOST_TOTAL >> 20} MiB already"
        if data is None:
            self.missing.append(Missing(path, error))
            return
        self._short(path, data)
        self.total += len(data)
        self.files.append(FileEntry.of(path, data))
        self.store.add(path, data)

    def _short(self, path: str, data: bytes) -> None:
        """Say so where configuration space was not shown whole."""
        size = self.tree.size(path) or 0
        if path.endswith("/config") and len(data) <= USER_CONFIG < size <= CONFIG_BYTES:
            self.missing.append(
                Missing(path, f"only the first {len(data)} bytes without root; capabilities are missing")
            )

    def _links(self) -> Iterator[tuple[str, str]]:
        for pattern in LINKS:
            for path in self._expand(pattern):
                target = self.tree.link(path)
                if target is not None:
                    yield path, target

    def _expand(self, pattern: str) -> Iterator[str]:
        """Yield the paths that fit a pattern."""
        found = [""]
        parts = pattern.split("/")
        for part in parts[:-1]:
            found = [path for folder in found for path in self._inside(folder, part)]
        for folder in found:
            yield from self._inside(folder, parts[-1], must_exist=True)

    def _inside(self, folder: str, part: str, *, must_exist: bool = False) -> Iterable[str]:
        """Return what fits one part of a pattern; a plain name of a directory need not be looked for."""
        if not must_exist and "*" not in part and "|" not in part:
            return [join(folder, part)]
        choices = part.split("|")
        names = [name for name in self._names(folder) if name not in SKIPPED and _fits(name, choices)]
        if folder == PLATFORM:
            names = [name for name in names if self._has_pasids(join(folder, name))]
        return [join(folder, name) for name in names]

    def _has_pasids(self, device: str) -> bool:
        """Return whether a platform device bears on PASIDs: it has an IOMMU, or PASIDs, or is an IOMMU itself."""
        names = self._names(device)
        if "iommu" in names or "iommu_group" in names:
            return True
        driver = self.tree.link(f"{device}/driver") or ""
        return "smmu" in driver or "iommu" in driver or "pasid-num-bits" in self._names(f"{device}/of_node")

    def _names(self, folder: str) -> list[str]:
        """Return the names in a directory, which is looked into once; say so where it may not be."""
        if folder not in self._listed:
            self._listed[folder] = []
            try:
                self._listed[folder] = self.tree.listed(folder)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                self.missing.append(Missing(folder, error.strerror or str(error)))
        return self._listed[folder]


def _fits(name: str, choices: list[str]) -> bool:
    return any(name == choice or ("*" in choice and fnmatchcase(name, choice)) for choice in choices)


def _kept(data: bytes, wanted: Wanted) -> tuple[bytes | None, str]:
    """Return what is kept of a file's content, or why that cannot be told."""
    try:
        return (wanted.keep or bytes)(data), ""
    except ValueError as error:
        return None, str(error)


class _Folder:
    """A capture as a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = {path}
        path.mkdir()

    def add(self, path: str, data: bytes) -> None:
        """Write a file."""
        place = self.path / path
        if place.parent not in self._made:
            place.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(place.parent)
        place.write_bytes(data)

    def close(self) -> None:
        """Do nothing: the files are written."""


class _Archive:
    """A capture as an archive, the same for the same host: without times, owners, and names of people."""

    def __init__(self, path: Path) -> None:
        self.stream = path.open("xb")
        self.packed = _gzip(self.stream)
        self.tar = tarfile.open(fileobj=self.packed, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, path: str, data: bytes) -> None:
        """Write a file."""
        member = tarfile.TarInfo(path)
        member.size, member.mode = len(data), 0o644
        self.tar.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        """End the archive."""
        with self.stream, self.packed:
            self.tar.close()


def _gzip(stream: io.BufferedWriter) -> GzipFile:
    """Return where an archive goes, without name and time."""
    return GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=6)


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """Yield a place beside the one that is wanted, and move what is there over; remove it when anything goes wrong."""
    place = place.absolute()
    if not _is_free(place):
        raise InputError(f"{place}: exists already; give a new name, or an empty directory")
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        yield beside
        os.replace(beside, place)
    except OSError as error:
        raise InputError(f"{place}: cannot be written: {error.strerror or error}") from None
    finally:
        _remove(beside)


def _is_free(place: Path) -> bool:
    if not place.is_dir():
        return not os.path.lexists(place)
    return not place.name.endswith(PACKED) and not any(place.iterdir())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def missing_lines(missing: Iterable[Missing]) -> list[str]:
    """Say what is missing in few lines: files of one kind with one reason are counted together."""
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in missing:
        kinds[_kind(one.path), one.reason].append(one.path)
    return [_line(kind, reason, paths) for (kind, reason), paths in kinds.items()]


def _line(kind: str, reason: str, paths: list[str]) -> str:
    if len(paths) == 1:
        return f"{paths[0]}: {reason}"
    if kind == "sys/bus/pci/devices/*/config":
        return f"config of {len(paths)} PCI functions: {reason}"
    return f"{kind} ({len(paths)} files): {reason}"


_NAMED = re.compile(r"(sys/bus/\w+/devices/|sys/kernel/iommu_groups/|sys/class/(?:iommu|uacce)/)[^/]+")


def _kind(path: str) -> str:
    """Return a path with `*` for the names of devices, groups and units."""
    return _NAMED.sub(r"\1*", path)
