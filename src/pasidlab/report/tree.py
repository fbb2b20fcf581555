"""A tree of things to say, each with its record for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from rich.markup import escape
from rich.tree import Tree

T = TypeVar("T")


@dataclass(slots=True)
class Node:
    """One line for people, one record for programs, and what belongs under it.

    Attributes:
        text: the line.
        record: what `--json` prints, on top of what all the nodes above share; empty for a mere heading.
        shared: keys that every record below has too.
    """

    text: str
    record: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def add(self, node: Node) -> Node:
        """Put a node under this one, and return it."""
        self.children.append(node)
        return node

    def say(self, text: str) -> None:
        """Put a line under this one that is for people only."""
        self.children.append(Node(text))

    def extend(self, items: Iterable[T], make: Callable[[T], Node], most: int, what: str) -> None:
        """Put a node for each of the first `most` items under this one, and say how many of `what` are left out."""
        rest = iter(items)
        self.children.extend(map(make, islice(rest, most)))
        left_out = sum(1 for _ in rest)
        if left_out:
            record = {"kind": "left_out", "of": what, "count": left_out}
            self.add(Node(f"... and {left_out} more {what}, left out", record))

    def records(self, above: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records, each node's before those under it."""
        shared = (above or {}) | self.shared
        if self.record:
            kind = {"kind": self.record["kind"]}
            yield kind | shared | self.record
        for child in self.children:
            yield from child.records(shared)

    def tree(self) -> Tree:
        """Return it as rich prints it."""
        tree = Tree(f"[bold]{escape(self.text)}[/bold]", highlight=False)
        _grow(tree, self)
        return tree


def _grow(tree: Tree, node: Node) -> None:
    for child in node.children:
        _grow(tree.add(escape(child.text)), child)
