"""The files of a Linux host, wherever they are now: on this machine, in a copy of its directories, or in an archive.

Paths are those of the host without the first slash: `sys/bus/pci/devices/0000:00:01.0/config`. A copy of sysfs cannot
keep symbolic links that lead nowhere, so a capture has them as text (`capture`); each kind of tree answers `link` in
its own way.

Decided here: a tree never leads outside of itself, whatever its links and names say. Links inside it are followed when
a file is read through them, as sysfs needs it.
"""

from __future__ import annotations

from typing import Protocol

MOST_BYTES = 64 << 20
"""Largest file that is read; device trees and kernel logs are the largest."""


class Tree(Protocol):
    """Files of a host. `name` is what messages call the tree."""

    name: str

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, MOST_BYTES at most; None when there is none, or it cannot be read."""

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, links among them, sorted; empty when there is none."""

    def link(self, path: str) -> str | None:
        """Return where a symbolic link leads, as it is written: `../../devices/pci0000:00`; None when it is none."""


def read_text(tree: Tree, path: str) -> str | None:
    """Return a file's text without the space around it; bytes that are none become replacement characters."""
    raw = tree.read(path)
    return None if raw is None else raw.decode("utf-8", errors="replace").strip()


def link_name(tree: Tree, path: str) -> str | None:
    """Return the last part of where a link leads, which in sysfs names the thing; None when it is none."""
    target = tree.link(path)
    return None if target is None else target.rstrip("/").rsplit("/", 1)[-1] or None
