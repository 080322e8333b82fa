"""A gate before a broker or a database: what goes through it is cut off, or never arrives, when a test says so."""

import contextlib
import socket
import threading
from collections.abc import Callable


class Gate:
    """Forwards a port of its own to `target` on this machine. It starts open."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._silent = False
        self._is_last: Callable[[bytes], bool] | None = None
        self._then_shut = False
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.open()

    def open(self) -> None:
        """Let everything through, after `shut`."""
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def shut(self) -> None:
        """Cut every connection and refuse new ones, as a broker that is not running."""
        self._refuse()
        self._cut()

    def cut_at(self, reply: Callable[[bytes], bool], *, then_shut: bool = False) -> None:
        """Cut every connection, once, instead of the first reply for which that holds; then let new ones through."""
        self._then_shut, self._is_last = then_shut, reply

    def never_mind(self) -> bool:
        """Let everything through again, after `cut_at`; whether something was cut."""
        cut, self._is_last = self._is_last is None, None
        if self._listener.fileno() < 0:
            self.open()
        return cut

    def _refuse(self) -> None:
        # A thread that waits in accept would keep the port.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _cut(self) -> None:
        with self._lock:
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self._ends.clear()

    def silence(self) -> None:
        """Take what is sent and let nothing through, as a broker that hangs."""
        self._silent = True

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=[source, sink, source is far], daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if replies and self._is_last is not None and self._is_last(data):
                    self._is_last = None
                    if self._then_shut:
                        self._refuse()
                    self._cut()
                    return
                if not self._silent:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
