"""Files of a host by name, where they are no longer files of a host: those of a capture, those of an archive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pasidlab.platforms.host.paths import clean, join, resolve


class Index:
    """Names and links, and what is in each directory.

    A capture has files below the name of a link, as `sys/bus/pci/devices/0000:00:01.0/config`, where the link leads
    into `sys/devices`: a name that is there is taken before links are followed.
    """

    def __init__(self, files: Iterable[str], links: Mapping[str, str]) -> None:
        self.files = frozenset(files)
        self.links = dict(links)
        self._inside: dict[str, set[str]] = {}
        for path in (*self.files, *self.links):
            self._enter(path)

    def _enter(self, path: str) -> None:
        """Put a name into its directory, and that into its own, up to the root or one that is known."""
        while path:
            folder, _, name = path.rpartition("/")
            known = folder in self._inside
            self._inside.setdefault(folder, set()).add(name)
            if known:
                return
            path = folder

    def file(self, path: str) -> str | None:
        """Return the file that a path leads to, None when there is none."""
        path = clean(path)
        if path in self.files:
            return path
        found = resolve(path, self._target)
        return found if found in self.files else None

    def names(self, path: str) -> list[str]:
        """Return the names in the directory that a path leads to, sorted."""
        here: str | None = clean(path)
        if here not in self._inside:
            here = resolve(path, self._target)
        return sorted(self._inside.get(here, ())) if here is not None else []

    def link(self, path: str) -> str | None:
        """Return where a link leads, as it is written; the way to it may have links too."""
        path = clean(path)
        if path in self.links:
            return self.links[path]
        folder, _, name = path.rpartition("/")
        place = resolve(folder, self._target)
        return None if place is None else self.links.get(join(place, name))

    def _target(self, path: str) -> str | None:
        """Return where a link leads that has no files below it."""
        return None if path in self._inside else self.links.get(path)
