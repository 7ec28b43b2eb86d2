"""HTTPS at the HTTP layer: invalid certificates, and clients that are slow, send garbage or use the wrong protocol. No model."""

import asyncio
import json
import os
import re
import resource
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from raw_http import only_connection, read_answer, request, run, serving, sweep, until

from fastrouter.errors import ConfigError
from fastrouter.http import tls
from fastrouter.http.connection import LINGER_SWEEPS
from fastrouter.http.connection_state import State
from fastrouter.http.tls import Certificate


class Authority:
    """Issues certificates to files, and clients that trust them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()

    def issue(self, name: str = "server") -> tuple[Path, Path]:
        issued = self._ca.issue_cert("127.0.0.1", "localhost", common_name=name)
        cert, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return cert, key

    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


# ---------------------------------------------------------------- files


def test_a_certificate(authority: Authority) -> None:
    context = Certificate(*authority.issue()).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda cert, key: cert.unlink(), "--ssl-cert-file {cert}: there is no such file"),
        (lambda cert, key: key.unlink(), "--ssl-key-file {key}: there is no such file"),
        (lambda cert, key: cert.write_text(""), "--ssl-cert-file {cert}: holds no PEM certificate"),
        (lambda cert, key: key.write_text("secret"), "--ssl-key-file {key}: holds no PEM private key"),
        (lambda cert, key: key.write_bytes(b"\xff\xfe"), "--ssl-key-file {key}: is not UTF-8"),
        (lambda cert, key: cert.write_text(key.read_text()), "--ssl-cert-file {cert}: holds no PEM certificate"),
        (lambda cert, key: cert.write_text(cert.read_text().replace("MII", "XXX")), "--ssl-cert-file {cert}: cannot be read"),
        (lambda cert, key: key.write_text(key.read_text()[:60] + "=\n" + key.read_text()[90:]), "--ssl-key-file {key}: cannot be read"),
        (lambda cert, key: key.write_bytes(trustme.CA().private_key_pem.bytes()), "--ssl-key-file {key}: is not the key of {cert}"),
        (lambda cert, key: key.write_bytes(encrypted(key)), "--ssl-key-file {key}: is protected by a passphrase"),
    ],
)
def test_what_is_wrong_is_named(authority: Authority, spoil: Callable[[Path, Path], None], message: str) -> None:
    cert, key = authority.issue("spoilt")
    certificate = Certificate(cert, key)
    context = certificate.context
    spoil(cert, key)
    with pytest.raises(ConfigError, match=re.escape(message.format(cert=cert, key=key))) as caught:
        Certificate(cert, key)
    assert "secret" not in caught.value.message
    with pytest.raises(ConfigError):
        certificate.reload()
    assert certificate.context is context


def encrypted(key: Path) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    protection = serialization.BestAvailableEncryption(b"word")
    return loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


# ---------------------------------------------------------------- connections


def test_requests_and_pipelining(authority: Authority) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            reader, writer = await site.connect()
            writer.write(request("/slow") + request("/json") + request("/echo", "POST", b"x" * 300_000) + request(Connection="close"))
            bodies = [json.loads((await read_answer(reader))[2]) for _ in range(4)]
            assert bodies[:2] == [{"slow": True}, {"path": "/json"}]
            assert len(bodies[2]["got"]) == 300_000
            assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_old_versions_are_refused(authority: Authority) -> None:
    async def scenario() -> None:
        old, older = authority.trust(), authority.trust()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.warns(DeprecationWarning, match="TLS"):
            older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_1
        older.set_ciphers("ALL:@SECLEVEL=0")
        async with serving(certificate=Certificate(*authority.issue()), trust=old) as site:
            assert (await site.ask(request()))[0] == 200
            site.trust = older
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await site.connect()

    run(scenario())


def test_a_slow_reader_pauses_the_stream_and_gets_all_of_it(authority: Authority) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            reader, writer = await site.connect()
            writer.write(request("/stream"))
            await until(lambda: site.streams)
            stream = site.streams[0]
            writer.transport.pause_reading()
            count = 0
            while "pause" not in stream.events:
                stream.write_event(b"x" * 8000)
                stream.flush()
                count += 1
                await asyncio.sleep(0)
            for _ in range(5):
                stream.write_event(b"x" * 8000)
                stream.flush()
            writer.transport.resume_reading()
            answer = asyncio.ensure_future(read_answer(reader))
            await until(lambda: "resume" in stream.events)
            stream.finish()
            stream.exchange.end_stream()
            assert (await answer)[2] == b"data: 1\n\n" + b"x" * 8000 * (count + 5)
            assert "overflow" not in stream.events
            writer.close()

    run(scenario())


def test_a_client_that_reads_nothing_is_cut_off(authority: Authority) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            _, writer = await site.connect()
            writer.write(request("/stream"))
            await until(lambda: site.streams)
            writer.transport.pause_reading()
            stream = site.streams[0]
            while "overflow" not in stream.events:
                stream.write_event(b"x" * 50_000)
                stream.flush()
                await asyncio.sleep(0)
            await until(lambda: "disconnect" in stream.events)
            writer.transport.abort()

    run(scenario())


@pytest.mark.parametrize("is_polite", [True, False])
def test_a_client_that_leaves_is_noticed(authority: Authority, is_polite: bool) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            _, writer = await site.connect()
            writer.write(request("/stream"))
            await until(lambda: site.streams)
            (writer.close if is_polite else writer.transport.abort)()
            await until(lambda: site.streams[0].events == ["disconnect"])
            await until(lambda: not site.server.connections)

    run(scenario())


def test_a_refusal_reaches_a_client_that_is_still_sending(authority: Authority) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            reader, writer = await site.connect()
            writer.write(request("/echo", "POST", Content_Length="99999999999") + b"x" * 300_000)
            status, headers, _ = await read_answer(reader)
            assert (status, headers["connection"]) == (413, "close")
            writer.close()
            await until(lambda: not site.server.connections)

    run(scenario())


def test_a_slow_client_gets_the_rest_of_an_answer_after_the_close(authority: Authority) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            reader, writer = await site.connect()  # the reader stops reading by itself while its bytes are not used
            writer.write(request("/stream", Connection="close"))
            await until(lambda: site.streams)
            connection = await only_connection(site)
            stream = site.streams[0]
            stream.write_event(b"x" * (24 << 20))
            stream.finish()
            stream.exchange.end_stream()
            assert connection.transport.is_closing()
            num_read = 0
            for _ in range(5):
                sweep(site, site.server.stall_sweeps - 3)
                assert connection in site.server.connections
                for _ in range(24):  # about 1.5 MB: more than a kernel acknowledges before the program reads it
                    data = await reader.read(65536)
                    assert data
                    num_read += len(data)
            num_read += len(await reader.read())
            assert num_read > 24 << 20
            writer.close()

    run(scenario())


def test_a_client_that_stops_reading_before_the_end_is_cut_off(authority: Authority) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            _, writer = await site.connect()
            writer.write(request("/stream", Connection="close"))
            await until(lambda: site.streams)
            connection = await only_connection(site)
            stream = site.streams[0]
            stream.write_event(b"x" * (24 << 20))
            stream.finish()
            stream.exchange.end_stream()
            await asyncio.sleep(0.1)  # until its kernel accepts no more bytes
            sweep(site, site.server.stall_sweeps + 2)
            await until(lambda: connection not in site.server.connections)
            writer.transport.abort()

    run(scenario())


def test_a_client_that_is_told_everything_and_never_says_goodbye_is_closed(authority: Authority) -> None:
    def read_all(port: int) -> tuple[ssl.SSLSocket, bytes]:
        client = authority.trust().wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")
        client.sendall(request("/big", Connection="close"))
        return client, b"".join(iter(lambda: client.recv(65536), b""))

    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue())) as site:
            client, answer = await asyncio.to_thread(read_all, site.port)
            with client:
                assert len(answer) > 1 << 20
                connection = await only_connection(site)
                sweep(site, site.server.stall_sweeps - 2)
                assert connection in site.server.connections
                sweep(site, 5)
                await until(lambda: not site.server.connections)

    run(scenario())


def test_a_refused_client_that_never_says_goodbye_is_closed(authority: Authority) -> None:
    def shake_hands(port: int) -> ssl.SSLSocket:
        client = authority.trust().wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")
        client.sendall(b"GET / HTTP/9.9\r\n\r\n")
        return client

    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue())) as site:
            client = await asyncio.to_thread(shake_hands, site.port)
            with client:
                connection = await only_connection(site)
                await until(lambda: connection.state is State.LINGERING)
                sweep(site, LINGER_SWEEPS + 2)
                await until(lambda: not site.server.connections)

    run(scenario())


# ---------------------------------------------------------------- handshakes


def test_plain_http_on_the_port_is_told_so_without_noise(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            for data in (b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 1000, b""):
                reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
                writer.write(data)
                writer.write_eof()
                assert b"HTTP/" not in await reader.read()
                writer.close()
            for data in (request(), b"G", request("/echo", "POST", b"x" * 3_000_000)):
                reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
                writer.write(data)
                status, headers, body = await read_answer(reader)
                assert (status, headers["connection"], b"use https://" in body) == (400, "close", True)
                writer.close()
            assert (await site.ask(request()))[0] == 200

    run(scenario())
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_a_client_that_mistrusts_the_certificate_gets_nothing(authority: Authority) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=ssl.create_default_context()) as site:
            with pytest.raises(ssl.SSLCertVerificationError):
                await site.connect()
            assert not site.server.connections

    run(scenario())


def test_handshakes_have_a_deadline_and_a_place(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.3)

    async def scenario() -> None:
        certificate = Certificate(*authority.issue())
        async with serving(certificate=certificate, trust=authority.trust(), max_connections=2) as site:
            (listener,) = site.server._tls
            silent = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(2)]
            await until(lambda: listener.num_arriving == 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            assert await reader.read() == b""  # there is no place for a third
            for each, _ in silent:
                assert await each.read() == b""
            await until(lambda: listener.num_arriving == 0)
            assert (await site.ask(request()))[0] == 200
            for _, each in (*silent, (reader, writer)):
                each.close()

    run(scenario())


def test_without_descriptors_it_waits_and_recovers(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "PAUSE_S", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            (listener,) = site.server._tls
            assert (await site.ask(request()))[0] == 200  # what is made once is there
            await until(lambda: not site.server.connections)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard))
            taken = []
            with suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            os.close(taken.pop())  # one for the client
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            await until(lambda: listener._timer is not None)
            assert listener.num_arriving == 0
            for descriptor in taken:
                os.close(descriptor)
            await until(lambda: listener.num_arriving == 1)
            assert (await site.ask(request()))[0] == 200
            writer.close()
            del reader

    try:
        run(scenario())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_stop_ends_handshakes(authority: Authority) -> None:
    async def scenario() -> None:
        async with serving(certificate=Certificate(*authority.issue()), trust=authority.trust()) as site:
            (listener,) = site.server._tls
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            await until(lambda: listener.num_arriving == 1)
            await site.server.drain(0)
            assert await reader.read() == b""
            with pytest.raises(OSError, match=r"refused|multiple"):
                await site.connect()
            writer.close()

    run(scenario())


def test_a_new_certificate_is_for_new_connections(authority: Authority) -> None:
    def name_of(writer: asyncio.StreamWriter) -> str:
        subject = writer.get_extra_info("peercert")["subject"]
        return dict(pair for (pair,) in subject)["commonName"]

    async def scenario() -> None:
        cert, key = authority.issue("old")
        certificate = Certificate(cert, key)
        async with serving(certificate=certificate, trust=authority.trust()) as site:
            reader, writer = await site.connect()
            assert name_of(writer) == "old"
            new_cert, new_key = authority.issue("new")
            cert.write_bytes(new_cert.read_bytes())
            with pytest.raises(ConfigError, match="is not the key of"):
                certificate.reload()
            key.write_bytes(new_key.read_bytes())
            certificate.reload()
            _, other = await site.connect()
            assert name_of(other) == "new"
            writer.write(request())
            assert (await read_answer(reader))[0] == 200
            for each in (writer, other):
                each.close()

    run(scenario())
