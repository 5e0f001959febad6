"""What a transport is."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["Transport"]


class Transport(ABC):
    """Brings step records and takes their answers, in order, one for one."""

    @abstractmethod
    def receive(self) -> bytes | None:
        """Waits for the next record; `None` when there will be none. The bytes are the receiver's own."""

    @abstractmethod
    def send(self, record: bytes) -> None:
        """Answers the oldest unanswered record. Raises `PillionError`, and sends nothing, if the answer is too long."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what the transport holds. Closing twice is fine."""
