"""HTTPS: the certificate, and the listener that hands over connections after the TLS handshake. It has one HTTP answer: for clients that
use plain HTTP.

Invariant: a client that never finishes its handshake holds one descriptor for HANDSHAKE_S, is counted, and reaches no route.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

from fastrouter.errors import ConfigError
from fastrouter.http.response import refusal
from fastrouter.system.text_file import read_text

log = logging.getLogger("fastrouter.http")

HANDSHAKE_S = 10.0
GOODBYE_S = 3600.0  # for the rest of an answer and the client's close_notify; Connection.sweep ends clients that make no progress
MAX_ACCEPTED = 16  # at a time, before other work gets its turn
PLAIN_LINGER_S = 2.0  # so that a client of plain HTTP can read why it is refused
_PLAIN_HTTP = refusal(400, "this port speaks HTTPS: use https:// instead of http://").render()
_TCP_INFO_BYTES = 136  # of Linux' struct tcp_info, up to tcpi_bytes_acked (since 4.1) and the field after it
_ACKED_AT = 120
PAUSE_S = 1.0  # after no descriptor was left


def acked_bytes(transport: asyncio.Transport) -> int | None:
    """How many bytes the client's machine has acknowledged; None without TLS. A TLS transport's buffer does not count encrypted bytes."""
    sock = transport.get_extra_info("socket")
    if transport.get_extra_info("ssl_object") is None or sock is None:
        return None
    try:
        acked: int = struct.unpack_from("=Q", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES), _ACKED_AT)[0]
    except OSError:
        return 0  # the connection is about to be lost
    return acked


class Certificate:
    """The contents of --ssl-cert-file and --ssl-key-file when they were last read."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Raises ConfigError."""
        self._cert_file = cert_file
        self._key_file = key_file
        self.context = self._read()

    def reload(self) -> None:
        """New connections use the new files. Raises ConfigError; then nothing has changed."""
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        cert, key = f"--ssl-cert-file {self._cert_file}", f"--ssl-key-file {self._key_file}"
        if "-----BEGIN CERTIFICATE-----" not in read_text(self._cert_file, cert):
            raise ConfigError(f"{cert}: holds no PEM certificate")
        text = read_text(self._key_file, key)
        if "PRIVATE KEY-----" not in text:
            raise ConfigError(f"{key}: holds no PEM private key")
        if "ENCRYPTED" in text:
            raise ConfigError(f"{key}: is protected by a passphrase")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert_file, self._key_file, password=lambda: "")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(f"{key}: is not the key of {self._cert_file}") from None
            raise ConfigError(f"{cert if self._is_cert_broken() else key}: cannot be read: {error.reason or error}") from None
        return context

    def _is_cert_broken(self) -> bool:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self._cert_file)
        except ssl.SSLError:
            return True
        return False


class TlsListener:
    """Accepts connections itself, not with the loop's server, so that handshakes can be counted and each uses the newest certificate."""

    def __init__(
        self, sock: socket.socket, certificate: Certificate, make_protocol: Callable[[], asyncio.Protocol], is_full: Callable[[], bool]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._certificate = certificate
        self._make_protocol = make_protocol
        self._is_full = is_full
        self._arriving: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._listen()

    def __repr__(self) -> str:
        return f"<TlsListener {self.num_arriving} arriving>"

    @property
    def num_arriving(self) -> int:
        return len(self._arriving)

    def close(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
        for task in self._arriving:
            task.cancel()

    def _listen(self) -> None:
        self._timer = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or memory is left: there may be some a second later
                log.warning("cannot accept connections: %s", error.strerror)
                self._loop.remove_reader(self._sock)
                self._timer = self._loop.call_later(PAUSE_S, self._listen)
                return
            if self._is_full():
                sock.close()  # to tell the reason, we would need a handshake, and there is no room for one
                continue
            task = self._loop.create_task(self._handshake(sock))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _handshake(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if await self._is_plain_http(sock):
                await self._refuse_plain_http(sock)
                return
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                sock,
                ssl=self._certificate.context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=GOODBYE_S,
            )
        except OSError as error:  # it does not trust the certificate, does not use TLS, sent nothing, or left; TimeoutError is an OSError
            log.debug("a TLS handshake failed: %s", error)
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise

    async def _is_plain_http(self, sock: socket.socket) -> bool:
        """Look at the first byte without consuming it: a handshake begins with 22, a method with a letter."""
        readable = asyncio.Event()
        self._loop.add_reader(sock, readable.set)
        try:
            await asyncio.wait_for(readable.wait(), HANDSHAKE_S)
        finally:
            self._loop.remove_reader(sock)
        return sock.recv(1, socket.MSG_PEEK).isalpha()

    async def _refuse_plain_http(self, sock: socket.socket) -> None:
        """If we closed immediately while the client still sends, a reset would delete the answer."""
        with contextlib.closing(sock), contextlib.suppress(OSError):
            async with asyncio.timeout(PLAIN_LINGER_S):
                await self._loop.sock_sendall(sock, _PLAIN_HTTP)
                sock.shutdown(socket.SHUT_WR)
                while await self._loop.sock_recv(sock, 1 << 16):
                    pass
