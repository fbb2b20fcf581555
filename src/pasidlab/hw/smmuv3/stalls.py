"""Stalled transactions: each waits under a stall tag (STAG) until software resumes or terminates it.

Source: IHI 0070 G.b, 3.12.2 (stall model), 4.7 (CMD_RESUME, CMD_STALL_TERM), IDR5.STALL_MAX.
Not modelled: merging of stalls on one page, so each transaction has its own event and its own tag; early retries, so
that a transaction whose event waits for room in the queue reports what it met at first (7.2.1 wants a retry if software
has invalidated something since).
"""

from __future__ import annotations

from pasidlab.hw.smmuv3.target import ResumeAction


class Stalls:
    """The transactions that wait, by STAG; at most `limit` of them."""

    __slots__ = ("_answers", "_streams", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._streams: dict[int, int] = {}
        self._answers: dict[int, ResumeAction] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, sid: int) -> int | None:
        """Let a transaction of a stream wait; returns its STAG, the lowest that is free, or None when all are used."""
        if len(self._streams) >= self.limit:
            return None
        stag = next(tag for tag in range(self.limit) if tag not in self._streams)
        self._streams[stag] = sid
        return stag

    def resume(self, sid: int, stag: int, action: ResumeAction) -> bool:
        """CMD_RESUME; false: it names no transaction of that stream, or an answered one, and is ignored."""
        if self._streams.get(stag) != sid or stag in self._answers:
            return False
        self._answers[stag] = action
        return True

    def terminate(self, sid: int) -> None:
        """CMD_STALL_TERM: abort what waits of a stream."""
        for stag, stream in self._streams.items():
            if stream == sid:
                self._answers.setdefault(stag, ResumeAction.ABORT)

    def terminate_all(self) -> None:
        """CR0.SMMUEN was cleared: abort everything that waits."""
        for stag in self._streams:
            self._answers.setdefault(stag, ResumeAction.ABORT)

    def take(self, stag: int) -> ResumeAction | None:
        """Return what software answered and free the STAG; None while the transaction waits."""
        answer = self._answers.pop(stag, None)
        if answer is not None:
            del self._streams[stag]
        return answer

    def waiting(self) -> tuple[tuple[int, int], ...]:
        """Return (STAG, StreamID) of every transaction that has no answer yet."""
        return tuple((stag, sid) for stag, sid in self._streams.items() if stag not in self._answers)
