"""Where the files of a host are: on this machine or in a copy of its directories, in a capture, in an archive.

Decided here: of a host, links are followed as long as they stay in the tree, for sysfs is full of them
(`sys/bus/pci/devices/0000:00:01.0` leads to `sys/devices/pci0000:00/0000:00:01.0`); others lead nowhere. Only regular
files are read, so that nothing waits for a pipe and no device does something because it was opened; the one exception
is the kernel's log, which is called `dmesg`. Names that people cannot be shown are passed over.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from pasidlab.errors import InputError
from pasidlab.platforms.host.archive import SUFFIXES, read_archive
from pasidlab.platforms.host.index import Index
from pasidlab.platforms.host.kmsg import DEVICE, DMESG, read_kmsg
from pasidlab.platforms.host.manifest import NAME as MANIFEST
from pasidlab.platforms.host.manifest import FileEntry, Missing, read_manifest
from pasidlab.platforms.host.paths import clean, is_plain, join, resolve
from pasidlab.platforms.host.tree import MOST_BYTES, Tree
from pasidlab.rules import Finding

DEEPEST = 128
"""How many directories a path may have; what is deeper is not there."""
_CHUNK = 1 << 20


class CheckedTree(Tree, Protocol):
    """A tree that knows what is wrong with its files, and which could not be read; of files, once they were read."""

    findings: list[Finding]
    missing: list[Missing]


class HostTree:
    """A running host at "/", or a copy of its directories with their links.

    Attributes:
        name: the directory.
        findings: nothing; a host is what it is.
        missing: what was there, and could not be read, once it was asked for.
    """

    def __init__(self, root: str | Path = "/") -> None:
        self.root = Path(root)
        self.name = str(root)
        self.findings: list[Finding] = []
        self.missing: list[Missing] = []
        self._prefix = os.path.join(root, "")
        self._folders: dict[str, str | None] = {}

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None when there is none, or it cannot be read, or is larger than MOST_BYTES."""
        try:
            return self.get(path)
        except PermissionError as error:
            self.missing.append(Missing(path, error.strerror or str(error)))
        except OSError:
            pass
        return None

    def get(self, path: str, most: int = MOST_BYTES) -> bytes:
        """Return a file's bytes; raises OSError that says why not, EFBIG for more than `most`."""
        if path == DMESG and not (self.root / DMESG).exists():
            return self._log()
        place = self._place(path)
        if not stat.S_ISREG(os.lstat(place).st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return _read(handle, most)
        finally:
            os.close(handle)

    def listed(self, path: str) -> list[str]:
        """Return the names in a directory, sorted; raises OSError that says why not."""
        return sorted(name for name in os.listdir(self._place(path)) if _shown(name))

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, sorted; empty when there is none, or it cannot be read."""
        try:
            return self.listed(path)
        except OSError:
            return []

    def link(self, path: str) -> str | None:
        """Return where a link leads, as it is written."""
        folder, _, name = clean(path).rpartition("/")
        place = self._folder(folder)
        return None if place is None else self._target(join(place, name))

    def is_file(self, path: str) -> bool:
        """Return whether a path leads to a regular file."""
        try:
            return stat.S_ISREG(os.lstat(self._place(path)).st_mode)
        except OSError:
            return False

    def size(self, path: str) -> int | None:
        """Return how large a file says that it is; None when there is none."""
        try:
            return os.lstat(self._place(path)).st_size
        except OSError:
            return None

    def _log(self) -> bytes:
        text = read_kmsg(self.root / DEVICE)
        if text is None:
            raise PermissionError(errno.EPERM, f"{DEVICE} may not be read")
        return text.encode()

    def _place(self, path: str) -> str:
        """Return where a file of the host is; raises OSError for one that links lead out of the tree."""
        folder, _, name = clean(path).rpartition("/")
        place = self._folder(folder)
        found = None if place is None else self._step(place, name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such file in the tree")
        return f"{self._prefix}{found}"

    def _folder(self, path: str) -> str | None:
        """Return where a directory is once its links are followed; each is looked at once."""
        if path not in self._folders and path.count("/") < DEEPEST:
            above, _, name = path.rpartition("/")
            place = self._folder(above) if above else ""
            self._folders[path] = None if place is None else self._step(place, name)
        return self._folders.get(path)

    def _step(self, place: str, name: str) -> str | None:
        """Return where a name in a directory leads that has no links on the way to it."""
        whole = join(place, name)
        return whole if name != ".." and self._target(whole) is None else resolve(whole, self._target)

    def _target(self, path: str) -> str | None:
        try:
            return os.readlink(f"{self._prefix}{path}")
        except (OSError, ValueError):
            return None


class _ListedTree:
    """Files of a host that are known by name; each is held once against what a manifest says of it.

    Attributes:
        findings: what is wrong with them, as far as they were read.
    """

    def __init__(
        self,
        index: Index,
        content: Callable[[str], bytes | None],
        entries: Iterable[FileEntry],
        findings: list[Finding],
    ) -> None:
        self.findings = findings
        self._index = index
        self._content = content
        self._uncompared = {entry.path: entry for entry in entries}

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None when there is none, or it cannot be read."""
        found = self._index.file(path)
        if found is None:
            return None
        data = self._content(found)
        entry = self._uncompared.pop(found, None)
        finding = None if entry is None else entry.differs(data)
        if finding is not None:
            self.findings.append(finding)
        return data

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return self._index.names(path)

    def link(self, path: str) -> str | None:
        """Return where a link of the host leads, as it is written."""
        return self._index.link(path)


class CaptureTree(_ListedTree):
    """A directory that `pasidlab capture` made.

    Attributes:
        name: the directory.
        manifest: what it should have.
        findings: files that are not what the manifest says, each once it was read.
        missing: what was there, and could not be read when it was captured.
    """

    def __init__(self, directory: str | Path) -> None:
        self.name = str(directory)
        files = HostTree(directory)
        try:
            raw = files.get(MANIFEST)
        except OSError as error:
            raise InputError(f"{directory}: {MANIFEST} cannot be read: {error.strerror or error}") from None
        self.manifest = read_manifest(raw, f"{directory}/{MANIFEST}")
        self.missing = list(self.manifest.missing)
        paths = (entry.path for entry in self.manifest.files)
        index = Index((*paths, *_unread(self.missing)), self.manifest.links)
        super().__init__(index, files.read, self.manifest.files, [])


class ArchiveTree(_ListedTree):
    """A .tar, .tar.gz or .tgz of a capture, or of a host's directories, read into memory once.

    Attributes:
        name: the file.
        manifest: of a capture; None for other archives.
        findings: what is wrong with the archive, and files that are not what the manifest says, once they were read.
        missing: of a capture, what was there and could not be read when it was captured.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        found = read_archive(Path(path))
        raw = found.files.get(MANIFEST)
        self.manifest = None if raw is None else read_manifest(raw, f"{path}: {MANIFEST}")
        entries = () if self.manifest is None else self.manifest.files
        links = found.links if self.manifest is None else found.links | self.manifest.links
        self.missing = [] if self.manifest is None else list(self.manifest.missing)
        index = Index((*found.files, *(entry.path for entry in entries), *_unread(self.missing)), links)
        super().__init__(index, found.files.get, entries, found.findings)


def open_tree(path: str | Path) -> HostTree | CaptureTree | ArchiveTree:
    """Open the files of a host: a directory with a manifest is a capture, another is a host; a file is an archive.

    Raises InputError for what is none of them.
    """
    path = Path(path)
    if path.is_dir():
        return CaptureTree(path) if (path / MANIFEST).is_file() else HostTree(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file or directory")
    if path.name.endswith(SUFFIXES) and path.is_file():
        return ArchiveTree(path)
    raise InputError(f"{path}: must be a directory of a host, a capture, or an archive ({', '.join(SUFFIXES)})")


def _unread(missing: Iterable[Missing]) -> Iterator[str]:
    """Yield the paths of files that could not be read, which are there all the same, as on the host."""
    return (one.path for one in missing if one.path != DMESG and all(map(is_plain, one.path.split("/"))))


def _shown(name: str) -> bool:
    """Return whether a name can be written down; those that are no UTF-8 cannot."""
    return is_plain(name) and not any(0xD800 <= ord(char) <= 0xDFFF for char in name)


def _read(handle: int, most: int) -> bytes:
    parts, left = list[bytes](), most + 1
    while left > 0:
        part = os.read(handle, min(left, _CHUNK))
        if not part:
            return b"".join(parts)
        parts.append(part)
        left -= len(part)
    raise OSError(errno.EFBIG, f"larger than {most} bytes")
