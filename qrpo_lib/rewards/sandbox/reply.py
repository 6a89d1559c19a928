"""What a solution's process answers, read strictly: bytes in any pieces, from a side that may write anything.

A reply is a length of 4 bytes, as long a header in JSON, and the values that the header announces. Values are never
decoded here. Where one value is to be compared with one that is known, only its digest is kept, so that memory does
not grow with what is sent.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from qrpo_lib.rewards.sandbox.worker import ANSWER_CHARACTERS

_MAX_HEADER_BYTES = 1 << 16
MAX_VALUE_BYTES = 4 * ANSWER_CHARACTERS
"""UTF-8 has at most four bytes a character."""


@dataclass(frozen=True)
class Digest:
    """A text by its length in bytes and its hash."""

    size: int
    sha256: bytes

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(len(data), hashlib.sha256(data).digest())


@dataclass
class Reply:
    """A reply that is arriving. `header` is there once it is whole; `broken` says what is wrong with it.

    values: how many the header must announce, if it announces any.
    digest: keep digests only.
    """

    values: int = 0
    digest: bool = False
    header: dict | None = None
    broken: str | None = None
    _received: bytearray = field(default_factory=bytearray)
    _missing: list[int] = field(default_factory=list)
    _parts: list = field(default_factory=list)
    _sizes: list[int | None] = field(default_factory=list)

    def feed(self, data: bytes) -> bool:
        """Take the next bytes. True once there is nothing more to expect: the reply is whole, or broken."""
        if self.header is None:
            self._received += data
            if len(self._received) < 4:
                return False
            size = int.from_bytes(self._received[:4], "big")
            if size > _MAX_HEADER_BYTES:
                return self._break("broke the protocol")
            if len(self._received) < 4 + size:
                return False
            data = bytes(self._received[4 + size :])
            if not self._read_header(bytes(self._received[4 : 4 + size])):
                return True
            self._received = bytearray()
        return self._take(memoryview(data))

    def answers(self) -> list[bytes | None] | list[Digest]:
        """The values of a whole reply, or their digests; None for a call of several that raised."""
        pairs = zip(self._sizes, self._parts, strict=True)
        if self.digest:
            return [Digest(size, part.digest()) for size, part in pairs]
        return [None if size is None else bytes(part) for size, part in pairs]

    def _is_size(self, size: object) -> bool:
        """Of several calls, one may have no value."""
        return (type(size) is int and size >= 0) or (size is None and self.values > 1 and not self.digest)

    def _read_header(self, text: bytes) -> bool:
        try:
            header = json.loads(text)
        except (ValueError, RecursionError, MemoryError):
            return not self._break("broke the protocol")
        if not isinstance(header, dict):
            return not self._break("broke the protocol")
        sizes = header.get("sizes", [])
        fits = isinstance(sizes, list) and all(self._is_size(size) for size in sizes)
        if not fits or ("sizes" in header and len(sizes) != self.values):
            return not self._break("broke the protocol")
        self._missing = [size or 0 for size in sizes]
        if sum(self._missing) > MAX_VALUE_BYTES:
            return not self._break(f"returned more than {ANSWER_CHARACTERS} characters")
        self.header, self._sizes = header, sizes
        self._parts = [hashlib.sha256() if self.digest else bytearray() for _ in sizes]
        return True

    def _take(self, data: memoryview) -> bool:
        for number, missing in enumerate(self._missing):
            part = data[:missing]
            self._missing[number] -= len(part)
            if self.digest:
                self._parts[number].update(part)
            else:
                self._parts[number] += part
            data = data[len(part) :]
            if self._missing[number]:
                return False
        return bool(self._break("broke the protocol")) if len(data) else True

    def _break(self, reason: str) -> bool:
        self.broken, self._received, self._parts = reason, bytearray(), []
        return True
