"""A private server as a context: started for the block, gone after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class PrivateServer(ABC):
    """What PostgreSQL's and RabbitMQ's private servers have in common."""

    @abstractmethod
    def start(self) -> None:
        """Start and wait until the server answers."""

    @abstractmethod
    def close(self) -> None:
        """End the server, in whatever state it is, and remove its directory."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
