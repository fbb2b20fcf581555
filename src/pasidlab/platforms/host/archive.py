"""A tar archive, compressed or not, read once from front to end into memory, within bounds.

Source: POSIX.1-2017, pax (ustar and pax interchange formats), as Python's tarfile reads them. Decided here: nothing is
written to a disk, so links are harmless: they are text, and those of a name to a file in the archive are that file.
Names that lead out of the archive, devices, pipes and sparse files are refused, since no capture has them and an
archive that does means harm. Bounded are the bytes that come out of the compression, the number of members, and the
length of names. One directory around everything is taken away. An archive that ends too early is read as far as it
goes, and that is a finding; where nothing could be read, it is none.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from pasidlab.errors import InputError
from pasidlab.platforms.host.gzipped import GZIP_MAGIC
from pasidlab.platforms.host.manifest import NAME as MANIFEST
from pasidlab.platforms.host.paths import is_plain
from pasidlab.platforms.host.tree import MOST_BYTES
from pasidlab.rules import Finding, Level, Rule

SUFFIXES = (".tar.gz", ".tgz", ".tar")
MOST_MEMBERS = 500_000
MOST_TOTAL = 256 << 20
"""Most bytes of an archive once it is unpacked."""
LONGEST_NAME = 1024
_TOP = frozenset({"sys", "proc", "boot", "var", "dev", "lib", "usr", "dmesg", "firmware"})
"""Directories of a host, which stay when all of an archive is in one of them."""
_BROKEN = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, UnicodeError)

CUT = Rule(
    "capture.archive-cut",
    "the archive",
    "it ends before its end, or cannot be unpacked to its end",
    "{file}: {problem}, after {members} members; these are used",
    source="POSIX.1-2017, pax",
    remedy="copy the archive again, whole",
    level=Level.ERROR,
)
LARGE_MEMBER = Rule(
    "capture.large-file",
    "the archive",
    "a file is larger than what is read",
    "{file}: {member} has {size} bytes, more than {most}; it is passed over",
    remedy="leave the file out of the archive, or read it by itself",
)
ODD_NAME = Rule(
    "capture.odd-name",
    "the archive",
    "a name has characters that cannot be printed",
    "{file}: {member} is passed over",
)


@dataclass(slots=True, eq=False)
class Archive:
    """What an archive holds: files, and where links lead."""

    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def read_archive(path: Path) -> Archive:
    """Read an archive; raises InputError for what is none, or is hostile, or too large."""
    reading = _Reading(str(path))
    try:
        with path.open("rb") as file:
            reading.all(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    return _without_top(reading.archive)


class _Reading:
    """An archive that is being read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.archive = Archive()
        self.members = 0

    def all(self, file: IO[bytes]) -> None:
        """Read members up to the end, or as far as it goes."""
        packed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        stream = _Bounded(cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file, self.name)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    self._take(tar, member)
                    tar.members = []  # type: ignore[attr-defined]  # else all are kept
        except _BROKEN as error:
            self._broken(str(error) or type(error).__name__)
            return
        if stream.ends_early():
            self._broken("it has no end mark")

    def _broken(self, problem: str) -> None:
        if not self.members:
            raise InputError(f"{self.name}: no tar archive that can be read: {problem}")
        self.archive.findings.append(CUT.finding(file=self.name, problem=problem, members=self.members))

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Take a member, unless it means harm or is nothing to read."""
        self.members += 1
        if self.members > MOST_MEMBERS:
            raise InputError(f"{self.name}: more than {MOST_MEMBERS} members, the most that are read")
        parts = self._parts(member)
        if not parts or member.isdir():
            return
        name = "/".join(parts)
        if not all(map(is_plain, parts)):
            self.archive.findings.append(ODD_NAME.finding(file=self.name, member=repr(member.name)))
        elif member.issym():
            self.archive.links[name] = member.linkname
        elif member.islnk():
            self._same(name, member)
        else:
            self._file(tar, member, name)

    def _parts(self, member: tarfile.TarInfo) -> list[str]:
        """Return the parts of a member's name; InputError for one that means harm."""
        shown = repr(member.name if len(member.name) < 80 else f"{member.name[:80]}...")
        if max(len(member.name), len(member.linkname)) > LONGEST_NAME:
            raise InputError(f"{self.name}: member {shown}: a name longer than {LONGEST_NAME} characters")
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if member.name.startswith("/") or ".." in parts:
            raise InputError(f"{self.name}: member {shown} leads out of the archive")
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()) or member.issparse():
            raise InputError(f"{self.name}: member {shown} is no file, directory or link")
        if member.size < 0:
            raise InputError(f"{self.name}: member {shown} says that it has {member.size} bytes")
        return parts

    def _same(self, name: str, member: tarfile.TarInfo) -> None:
        """Give a file a second name."""
        target = "/".join(part for part in member.linkname.split("/") if part not in ("", "."))
        if target in self.archive.files:
            self.archive.files[name] = self.archive.files[target]

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        if member.size > MOST_BYTES:
            facts = {"member": name, "size": member.size, "most": MOST_BYTES}
            self.archive.findings.append(LARGE_MEMBER.finding(file=self.name, **facts))
            return
        stream = tar.extractfile(member)
        data = b"" if stream is None else stream.read()
        if len(data) < member.size:
            raise EOFError(f"{name} is cut short")
        self.archive.files[name] = data


class _Bounded(io.RawIOBase):
    """A stream that is refused once it gives more than an archive may have, and that knows how it ended."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name, self._left = stream, name, MOST_TOTAL
        self._tail = b""

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes; InputError once it is too much."""
        with _plain_errors():
            data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self._name}: unpacks to more than {MOST_TOTAL >> 20} MiB, the most that is read")
        self._tail = (self._tail + data)[-tarfile.BLOCKSIZE :]
        return data

    def ends_early(self) -> bool:
        """Return whether what came last is no block of zeros, with which an archive ends."""
        return self._tail.count(0) < tarfile.BLOCKSIZE


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what the compression says of a broken file into an end, which tarfile hands on."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise EOFError(f"the compressed data is broken or cut short: {error}") from None


def _without_top(archive: Archive) -> Archive:
    """Take away a directory around everything, as `tar czf x.tgz capture` makes it."""
    names = [*archive.files, *archive.links]
    tops = {name.split("/", 1)[0] for name in names}
    if len(tops) != 1 or tops & _TOP or any("/" not in name for name in names) or MANIFEST in tops:
        return archive
    cut = len(tops.pop()) + 1
    files = {name[cut:]: data for name, data in archive.files.items()}
    links = {name[cut:]: target for name, target in archive.links.items()}
    return Archive(files, links, archive.findings)
