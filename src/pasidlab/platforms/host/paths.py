"""Paths of a host's files: links are followed by hand, as the kernel does, and never out of the tree.

Source: path_resolution(7). Decided here: a link with an absolute target leads to that path of the tree, as it would
under chroot(2); one that leads above the root, or on and on, leads nowhere.
"""

from __future__ import annotations

from collections.abc import Callable

MOST_LINKS = 40
"""How many links are followed on the way to a file, as in Linux."""
LONGEST = 4096
"""Longest path, in characters."""


def clean(path: str) -> str:
    """Return a path without empty parts and `.`; `..` stays."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def join(*parts: str) -> str:
    """Return parts of a path as one, empty ones left out."""
    return "/".join(part for part in parts if part)


def is_plain(name: str) -> bool:
    """Return whether a name can be told to people and written to a file: one part of a path, all printable."""
    return name not in ("", ".", "..") and "/" not in name and name.isprintable() and len(name) <= LONGEST


def resolve(path: str, target_of: Callable[[str], str | None]) -> str | None:
    """Return where a path leads once its links are followed; None when that is out of the tree, or nowhere.

    `target_of` tells where a link leads, and None for what is no link.
    """
    if len(path) > LONGEST:
        return None
    todo, done, left = path.split("/")[::-1], list[str](), MOST_LINKS
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not done:
                return None
            done.pop()
            continue
        done.append(part)
        target = target_of("/".join(done))
        if target is None:
            continue
        left -= 1
        if left < 0 or len(target) > LONGEST:
            return None
        done = [] if target.startswith("/") else done[:-1]
        todo += target.split("/")[::-1]
    return "/".join(done)
