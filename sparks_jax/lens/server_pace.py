"""A connection that is slow on purpose holds nothing for long: HTTP of uvicorn with deadlines that it does not have.

Uvicorn limits the size of the head of a request and how long a connection is kept between two requests, and counts
connections; but a client that sends half a head, or opens a connection and says nothing, or does not read its answer,
is waited for without end, and enough of them are all the connections that there may be. Bodies have their own time
(`server_uploads`), films theirs (`server_films`).
"""

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD = 10.0  # seconds for the whole head of a request, from the opening of a connection or its first byte
READ = 30.0  # seconds in which a client takes some of what waits for it
# Bytes that the system keeps for a client: it asks for more when a part of them is gone, and that must be soon.
KEPT = 131_072


class Paced(H11Protocol):
    """The protocol of one connection: closed where the head of a request, or the reading of an answer, takes too long.

    Attributes:
        head: As `HEAD`.
        read: As `READ`.
    """

    head, read = HEAD, READ

    def connection_made(self, transport: Any) -> None:
        """Begin: the head of the first request is waited for."""
        self.late: asyncio.TimerHandle | None = None  # for a head
        self.stuck: asyncio.TimerHandle | None = None  # for a reader
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take what came; what is less than a head does not buy time."""
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        for timer in (self.late, self.stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Much of an answer waits for its reader."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """The reader has taken most of it, and what follows is written."""
        super().resume_writing()
        if self.stuck is not None and not self.cycle.response_complete:
            self.stuck.cancel()
            self.stuck = None

    def on_response_complete(self) -> None:
        """All is written, though not read; what is left holds the connection even after it is closed."""
        super().on_response_complete()
        if self.stuck is None:
            self._wait_for_reader()

    def _wait_for_head(self) -> None:
        missing = self.conn.their_state is h11.IDLE
        if missing and self.late is None:
            self.late = self.loop.call_later(self.head, self.transport.abort)
        elif not missing and self.late is not None:
            self.late.cancel()
            self.late = None

    def _wait_for_reader(self) -> None:
        left = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() >= left:
                self.transport.abort()
            else:
                self._wait_for_reader()

        self.stuck = self.loop.call_later(self.read, look) if left else None
