"""`manifest.json` of a capture: what was taken, where links led, what could not be read and why, what was left out.

Decided here: links are text, since a copy of sysfs cannot keep links that lead nowhere. A capture is a folder of files
that people may edit: one that is not what the manifest says is a finding and is used all the same; one that the
manifest does not name is not read. There are no times in it, so that two captures of one host are equal where the
host is.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from pasidlab.decode import convert
from pasidlab.errors import InputError
from pasidlab.platforms.host.paths import is_plain
from pasidlab.rules import Finding, Rule

NAME = "manifest.json"
FORMAT = 1
"""The only form that there is; another is refused."""
MOST_BYTES = 64 << 20
"""Largest manifest that is read."""

CHANGED = Rule(
    "capture.changed",
    "the capture's manifest",
    "a file is not what was captured: its SHA-256 differs",
    "{file}: {size} bytes of SHA-256 {found}..., captured were {captured} of {expected}...; it is used as it is",
    remedy="take the capture again, unless the file was changed on purpose",
)
GONE = Rule(
    "capture.gone",
    "the capture's manifest",
    "a file that was captured is not there, or cannot be read",
    "{file}: the manifest names it, and it is not there",
    remedy="take the capture again, or copy it whole",
)

Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="64 hexadecimal digits, lower case")]


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A file that was captured."""

    path: Path
    size: Annotated[int, Meta(ge=0)]
    sha256: Sha256

    @classmethod
    def of(cls, path: str, data: bytes) -> FileEntry:
        """Return the entry of a file with this content."""
        return cls(path, len(data), hashlib.sha256(data).hexdigest())

    def differs(self, data: bytes | None) -> Finding | None:
        """Return what is wrong with what is there now, if anything."""
        if data is None:
            return GONE.finding(file=self.path)
        found = hashlib.sha256(data).hexdigest()
        if found == self.sha256:
            return None
        facts = {"size": len(data), "captured": self.size, "found": found[:8], "expected": self.sha256[:8]}
        return CHANGED.finding(file=self.path, **facts)


class Missing(Struct, frozen=True, forbid_unknown_fields=True):
    """What is there and could not be read, or not whole, and why."""

    path: str
    reason: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a capture has.

    Attributes:
        format: FORMAT.
        tool: which program took it.
        release: that of the kernel, as 6.12.30; empty where unknown.
        machine: x86_64, aarch64 or riscv64; empty where unknown.
        files: in the order of their paths.
        links: path of each symbolic link, and where it leads, as it is written.
        missing: what could not be read.
        left_out: what was not taken on purpose, in sentences.
    """

    format: int
    tool: str
    release: str
    machine: str
    files: list[FileEntry]
    links: dict[str, str]
    missing: list[Missing] = []
    left_out: list[str] = []

    def to_json(self) -> bytes:
        """Return the file's content."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read_manifest(data: bytes, file: str = NAME) -> Manifest:
    """Read a manifest; InputError names the key, its value, and what is allowed."""
    if len(data) > MOST_BYTES:
        raise InputError(f"{file}: larger than {MOST_BYTES >> 20} MiB, the most that is read")
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{file}: must be an object with the keys {', '.join(Manifest.__struct_fields__)}")
    if raw.get("format", FORMAT) != FORMAT:
        raise InputError(f"{file}: format = {raw['format']!r}: allowed is {FORMAT}; a newer pasidlab may read it")
    try:
        manifest = convert(raw, Manifest)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    for path in (*(entry.path for entry in manifest.files), *manifest.links):
        if not all(map(is_plain, path.split("/"))):
            raise InputError(f"{file}: path {path!r}: must be a path below the capture, of printable names, without ..")
    return manifest
