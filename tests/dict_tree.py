"""A host's files from a dictionary: text for a file, a `Link` for a symbolic link, which is not followed."""

from collections.abc import Mapping


class Link(str):
    __slots__ = ()


class DictTree:
    name = "host"

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self.folders: dict[str, set[str]] = {}
        for path in files:
            parts = path.split("/")
            for depth in range(1, len(parts)):
                self.folders.setdefault("/".join(parts[:depth]), set()).add(parts[depth])

    def read(self, path: str) -> bytes | None:
        content = self.files.get(path)
        return None if content is None or isinstance(content, Link) else content.encode()

    def names(self, path: str) -> list[str]:
        return sorted(self.folders.get(path, ()))

    def link(self, path: str) -> str | None:
        content = self.files.get(path)
        return str(content) if isinstance(content, Link) else None
