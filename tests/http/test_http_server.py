"""The HTTP layer alone: real sockets, small handlers, no model."""

import asyncio
import gc
import json
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from raw_http import only_connection, read_answer, request, run, serving, sweep, until

from fastrouter._core import Request
from fastrouter.errors import ConfigError, FastrouterError, Unavailable
from fastrouter.http.connection import HEAD_SWEEPS, LINGER_SWEEPS, Connection
from fastrouter.http.guard import host_of, is_loopback
from fastrouter.http.response import encode_json
from fastrouter.http.routes import MAX_BODY, SMALL_BODY
from fastrouter.http.sockets import SocketFile, address_of, bind
from fastrouter.options.cors import Cors


def test_keep_alive_and_pipelining_keep_the_order() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/slow") + request("/json") + request("/echo", "POST", b"hi") + request("/slow"))
            bodies = [json.loads((await read_answer(reader))[2]) for _ in range(4)]
            assert bodies == [{"slow": True}, {"path": "/json"}, {"got": "hi"}, {"slow": True}]
            writer.write(request(Connection="close"))
            assert (await read_answer(reader))[1]["connection"] == "close"
            assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_http_1_0_head_options_and_unknown_paths() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request(version="1.0"))
            assert (await read_answer(reader))[0] == 200
            assert await reader.read() == b""
            writer.close()
            reader, writer = await site.connect()
            writer.write(request("/health", "HEAD") + request("/health"))
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert "Content-Length: 15" in head
            assert (await read_answer(reader))[2] == b'{"status":"ok"}'
            writer.close()
            assert (await site.ask(request("/nothing", "OPTIONS")))[0] == 200
            status, _, body = await site.ask(request("/nothing"))
            assert (status, json.loads(body)["error"]["message"]) == (404, "File Not Found")
            status, headers, _ = await site.ask(request("/json", "POST", b"{}"))
            assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")
            status, headers, _ = await site.ask(request("/echo"))
            assert (status, headers["allow"]) == (405, "OPTIONS, POST")
            assert json.loads((await site.ask(request("/below/a/b")))[2]) == {"rest": "a/b"}

    run(scenario())


def test_errors_are_json_and_a_bug_of_ours_ends_one_request() -> None:
    async def scenario() -> None:
        async with serving() as site:
            status, _, body = await site.ask(request("/refuse"))
            wanted = {"code": 400, "message": "field 'x' is wrong", "type": "invalid_request_error", "field": "x"}
            assert (status, json.loads(body)["error"]) == (400, wanted)
            status, _, body = await site.ask(request("/broken"))
            assert (status, json.loads(body)["error"]["type"]) == (500, "server_error")
            assert (await site.ask(request()))[0] == 200

    run(scenario())


def test_malformed_requests_are_answered_and_closed() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/slow") + b"GET / HTTP/3.0\r\n\r\n")
            assert (await read_answer(reader))[0] == 200
            status, headers, _ = await read_answer(reader)
            assert (status, headers["connection"]) == (505, "close")
            assert await reader.read() == b""
            writer.close()

    run(scenario())


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_who_may_change_something(fields: dict[str, str], status: int) -> None:
    async def scenario() -> None:
        async with serving() as site:
            assert (await site.ask(request("/echo", "POST", b"{}", **fields)))[0] == status

    run(scenario())


def test_cors_headers() -> None:
    async def scenario() -> None:
        async with serving() as site:
            _, headers, _ = await site.ask(request(Origin="http://localhost:3000"))
            assert headers["access-control-allow-origin"] == "http://localhost:3000"
            _, headers, _ = await site.ask(request(Origin="http://evil.example"))
            assert "access-control-allow-origin" not in headers
        async with serving(cors=Cors(origins="*", credentials=False)) as site:
            status, headers, _ = await site.ask(request("/echo", "POST", b"{}", Origin="http://any.example"))
            assert (status, headers["access-control-allow-origin"]) == (200, "*")

    run(scenario())


def test_keys() -> None:
    async def scenario() -> None:
        async with serving(keys=("one", "two")) as site:
            for fields in ({"Authorization": "Bearer one"}, {"Authorization": "bearer two"}, {"X_Api_Key": "two"}):
                assert (await site.ask(request(**fields)))[0] == 200
            for fields in ({"Authorization": "Bearer three"}, {"Authorization": "Basic one"}):
                status, _, body = await site.ask(request(**fields))
                assert (status, json.loads(body)["error"]["message"]) == (401, "Invalid API Key")
            for fields in ({}, {"X_Api_Key": ""}, {"Authorization": "Bearer "}):  # as clients without a key send it
                status, _, body = await site.ask(request(**fields))
                error = json.loads(body)["error"]
                assert (status, error["type"]) == (401, "authentication_error")
                assert "none was sent" in error["message"]
                assert "`Authorization: Bearer KEY`" in error["message"]
            assert (await site.ask(request("/health")))[0] == 200
            assert (await site.ask(request("/json", "OPTIONS")))[0] == 200
            assert (await site.ask(request("/no-such")))[0] == 401  # a client without a key learns nothing from an unknown path

    run(scenario())


def test_a_stream_goes_out_and_the_connection_lives_on() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/stream") + request())
            await until(lambda: site.streams)
            stream = site.streams[0]
            stream.write_event(b"data: 2\n\n")
            stream.finish()
            stream.exchange.end_stream()
            status, headers, body = await read_answer(reader)
            assert (status, headers["content-type"], body) == (200, "text/event-stream", b"data: 1\n\ndata: 2\n\n")
            assert (await read_answer(reader))[0] == 200
            writer.close()

    run(scenario())


def test_a_client_that_leaves_is_noticed() -> None:
    async def scenario() -> None:
        async with serving() as site:
            _, writer = await site.connect()
            writer.write(request("/stream"))
            await until(lambda: site.streams)
            writer.transport.abort()
            await until(lambda: site.streams[0].events == ["disconnect"])
            site.streams[0].exchange.send(encode_json("nobody is there"))
            _, writer = await site.connect()
            writer.write(request("/never"))
            await until(lambda: any(c.exchange is not None for c in site.server.connections))
            writer.transport.abort()
            await until(lambda: not site.server.connections)

    run(scenario())


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/stream"))
            await until(lambda: site.streams)
            writer.transport.pause_reading()
            stream = site.streams[0]
            while "overflow" not in stream.events:
                stream.write_event(b"x" * 50_000)
                stream.flush()
                await asyncio.sleep(0)
            assert stream.events[0] == "pause"
            await until(lambda: "disconnect" in stream.events)
            writer.transport.abort()
            del reader

    run(scenario())


def test_too_many_connections_are_told_so() -> None:
    async def scenario() -> None:
        async with serving(max_connections=2) as site:
            held = [await site.connect() for _ in range(2)]
            await until(lambda: len(site.server.connections) == 2)
            reader, writer = await site.connect()
            status, _, body = await read_answer(reader)
            assert (status, json.loads(body)["error"]["type"]) == (503, "unavailable_error")
            for _, other in [*held, (reader, writer)]:
                other.close()

    run(scenario())


def test_a_drain_waits_and_then_tells_the_rest() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/stream"))
            slow_reader, slow_writer = await site.connect()
            slow_writer.write(request("/slow"))
            await until(lambda: site.streams and sum(c.exchange is not None for c in site.server.connections) == 2)
            await site.server.drain(0.2)
            assert (await read_answer(slow_reader))[0] == 200
            assert site.streams[0].events == [f"fail {Unavailable('the server is stopping')}"]
            assert (await reader.read()).endswith(b"data: error\n\n\r\n")
            with pytest.raises(OSError, match=r"refused|multiple"):
                await site.connect()
            writer.close()
            slow_writer.close()

    run(scenario())


def test_silent_clients_are_closed() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            partial_reader, partial_writer = await site.connect()
            partial_writer.write(b"GET / HT")
            await until(lambda: len(site.server.connections) == 2)
            await asyncio.sleep(0.05)
            for _ in range(13):  # the server's own timer does this once a second
                for connection in list(site.server.connections):
                    connection.sweep()
            assert await reader.read() == b""
            assert (await read_answer(partial_reader))[0] == 408
            writer.close()
            partial_writer.close()

    run(scenario())


def test_an_idle_connection_lives_longer_than_a_silent_one() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request())
            await read_answer(reader)
            sweep(site, HEAD_SWEEPS + 2)
            writer.write(request())
            assert (await read_answer(reader))[0] == 200
            sweep(site, site.server.keep_alive_sweeps + 1)
            assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_a_body_must_keep_coming() -> None:
    async def scenario() -> None:
        async with serving() as site:
            body = b"x" * 200_000
            data = request("/echo", "POST", body)
            for missing, is_fast_enough in ((50_000, True), (199_000, False)):
                reader, writer = await site.connect()
                writer.write(data[:-missing])
                connection = await only_connection(site)
                await until(lambda: connection._parser.num_body_bytes == len(body) - missing)  # noqa: B023
                sweep(site, HEAD_SWEEPS + 5)
                writer.write(data[-missing:])
                status, headers, _ = await read_answer(reader)
                assert (status, headers.get("connection")) == ((200, None) if is_fast_enough else (408, "close"))
                if not is_fast_enough:
                    sweep(site, LINGER_SWEEPS + 1)
                writer.close()
                await until(lambda: not site.server.connections)

    run(scenario())


def test_answers_that_are_not_read_do_not_pile_up() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1 << 12)
            writer.write(request("/big") * 50)
            connection = await only_connection(site)
            await until(lambda: connection.transport.get_write_buffer_size())
            for _ in range(20):
                await asyncio.sleep(0)
            assert connection.num_requests < 30  # what the kernel's buffers took, and one
            assert connection.transport.get_write_buffer_size() <= 2 << 20
            for _ in range(50):
                assert len((await read_answer(reader))[2]) == (1 << 20) + 2
            writer.write(request())
            assert (await read_answer(reader))[0] == 200
            writer.close()

    run(scenario())


def test_who_leaves_answers_unread_is_cut_off() -> None:
    async def scenario() -> None:
        async with serving() as site:
            _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1 << 12)
            writer.write(request("/big") * 40)
            connection = await only_connection(site)
            before = 0
            while before == 0 or before != connection.transport.get_write_buffer_size():
                before = connection.transport.get_write_buffer_size()
                await asyncio.sleep(0.02)
            sweep(site, site.server.stall_sweeps + 2)
            await until(lambda: not site.server.connections)
            writer.transport.abort()

    run(scenario())


def test_a_slow_reader_pauses_a_stream_and_loses_nothing() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1 << 12)
            writer.write(request("/stream"))
            await until(lambda: site.streams)
            (stream,) = site.streams
            count = 0
            while "pause" not in stream.events:
                stream.write_event(b"x" * 8000)
                stream.flush()
                count += 1
                await asyncio.sleep(0)
            for _ in range(5):
                stream.write_event(b"x" * 8000)
                stream.flush()
            answer = asyncio.ensure_future(read_answer(reader))
            await until(lambda: "resume" in stream.events)
            stream.finish()
            stream.exchange.end_stream()
            assert (await answer)[2] == b"data: 1\n\n" + b"x" * 8000 * (count + 5)
            assert "overflow" not in stream.events
            writer.close()

    run(scenario())


def test_100_continue_comes_in_its_turn() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            data = request("/echo", "POST", b"hello", Expect="100-continue")
            for before in (b"", request("/slow"), request()):
                writer.write(before + data[:-5])
                if before:
                    assert (await read_answer(reader))[0] == 200
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b"hello")
                assert (await read_answer(reader))[2] == b'{"got":"hello"}'
            writer.write(data)  # a client that has sent the body does not wait
            assert (await read_answer(reader))[0] == 200
            writer.close()

    run(scenario())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (request(Upgrade="websocket"), 501),
        (request(Expect="coffee"), 417),
        (request("/" + "x" * 9000), 414),
        (request(A="x" * 9000), 431),
        (request("/echo", "POST", Content_Length="99999999999"), 413),
        (request("/echo", "POST", Content_Length="1", Transfer_Encoding="chunked"), 400),
        (request("/echo", "POST", Transfer_Encoding="gzip, chunked"), 501),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_every_refusal_closes_and_what_follows_is_not_read(data: bytes, status: int) -> None:
    async def scenario() -> None:
        async with serving() as site:
            for before in (b"", request(), request("/slow")):
                reader, writer = await site.connect()
                writer.write(before + data + request("/stream"))
                if before:
                    assert (await read_answer(reader))[0] == 200
                got, headers, body = await read_answer(reader)
                assert (got, headers["connection"], json.loads(body)["error"]["code"]) == (status, "close", status)
                writer.write(request("/stream"))
                assert await reader.read() == b""
                writer.close()
            assert site.streams == []

    run(scenario())


def test_http_1_0_keeps_alive_when_asked_but_not_after_a_stream() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            for _ in range(2):
                writer.write(request(version="1.0", Connection="keep-alive"))
                status, headers, _ = await read_answer(reader)
                assert (status, headers["connection"]) == (200, "keep-alive")
            writer.write(request("/stream", version="1.0", Connection="keep-alive"))
            await until(lambda: site.streams)
            site.streams[0].finish()
            site.streams[0].exchange.end_stream()
            _, headers, body = await read_answer(reader)
            assert (headers["connection"], headers.get("transfer-encoding"), body) == ("close", None, b"data: 1\n\n")
            writer.close()

    run(scenario())


def test_keys_may_be_any_text() -> None:
    key = "schlüssel-à"  # its last byte in UTF-8 is a space in Latin-1

    async def scenario() -> None:
        async with serving(keys=(key,)) as site:
            for sent, status in ((key, 200), ("schlussel-a", 401), (key + "x", 401)):
                data = request().replace(b"\r\n\r\n", b"\r\nX-Api-Key:  " + sent.encode() + b" \t\r\n\r\n")
                assert (await site.ask(data))[0] == status

    run(scenario())


def test_a_stop_answers_the_request_that_runs_and_not_those_behind_it() -> None:
    async def scenario() -> None:
        async with serving() as site:
            idle_reader, idle_writer = await site.connect()
            reader, writer = await site.connect()
            writer.write(request("/slow") + request("/stream"))
            await until(lambda: any(c.exchange is not None for c in site.server.connections) and len(site.server.connections) == 2)
            draining = asyncio.ensure_future(site.server.drain(20))
            assert await idle_reader.read() == b""
            status, headers, _ = await read_answer(reader)
            assert (status, headers["connection"]) == (200, "close")
            assert await reader.read() == b""
            await draining
            assert site.streams == []
            for each in (idle_writer, writer):
                each.close()

    run(scenario())


def test_a_handler_may_cut_the_connection() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request() + request("/cut") + request("/stream"))
            with suppress(ConnectionResetError):
                await reader.read()
            await until(lambda: not site.server.connections)
            assert site.streams == []
            writer.close()

    run(scenario())


def test_a_unix_socket_is_taken_over_when_its_owner_is_dead(tmp_path: Path) -> None:
    path = str(tmp_path / "router.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    (sock,) = bind([path], 0)
    with sock:
        assert address_of(sock) == f"unix://{path}"
        assert os.stat(path).st_mode & 0o777 == 0o600
        with pytest.raises(ConfigError, match=f"cannot listen on {path}: it is in use"):
            bind([path], 0)


def test_no_other_file_is_ever_taken_for_a_socket(tmp_path: Path) -> None:
    text, dead, link = tmp_path / "text.sock", tmp_path / "dead.sock", tmp_path / "link.sock"
    text.write_text("mine")
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(dead))
    link.symlink_to(dead)
    (tmp_path / "folder.sock").mkdir()
    os.mkfifo(tmp_path / "pipe.sock")
    for name in ("text", "link", "folder", "pipe"):
        with pytest.raises(ConfigError, match=f"{name}.sock: a file with this name exists, and it is not a socket"):
            bind([str(tmp_path / f"{name}.sock")], 0)
    assert text.read_text() == "mine"
    assert link.is_symlink()


def test_only_its_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    (first,) = bind([str(path)], 0)
    file = SocketFile(first)
    first.close()
    (second,) = bind([str(path)], 0)  # the next router has started before the last one ended
    with second:
        file.remove()
        assert path.is_socket()
        other = SocketFile(second)
        for _ in range(2):
            other.remove()
            assert not path.exists()


def test_bind_says_what_is_wrong() -> None:
    (taken,) = bind(["127.0.0.1"], 0)
    with pytest.raises(ConfigError, match="in use"):
        bind(["127.0.0.1"], taken.getsockname()[1])
    taken.close()
    with pytest.raises(ConfigError, match="cannot listen on no-such-host"):
        bind(["no-such-host.invalid"], 0)


def test_host_names() -> None:
    assert [host_of(text) for text in ("LocalHost:80", "[::1]:80", "a")] == ["localhost", "[::1]", "a"]
    assert [is_loopback(text) for text in ("localhost", "127.0.0.1", "127.1.2.3", "[::1]")] == [True] * 4
    assert [is_loopback(text) for text in ("127.evil.example", "0.0.0.0", "example.com", "127.0.0.1.evil")] == [False] * 4


def test_error_tree_has_statuses() -> None:
    assert FastrouterError("x").to_json() == {"error": {"code": 500, "message": "x", "type": "server_error"}}


# ---------------------------------------------------------------- bodies and paths


@pytest.mark.parametrize(
    ("path", "method", "fields", "size", "status"),
    [
        ("/echo", "POST", {}, 10 << 20, 401),
        ("/nothing", "POST", {}, 10 << 20, 401),
        ("/echo", "POST", {"Authorization": "Bearer wrong"}, 10 << 20, 401),
        ("/nothing", "POST", {"X_Api_Key": "right"}, 10 << 20, 404),
        ("/json", "POST", {"X_Api_Key": "right"}, 10 << 20, 405),
        ("/small", "POST", {"X_Api_Key": "right"}, SMALL_BODY + 1, 413),
        ("/never", "POST", {"X_Api_Key": "right"}, MAX_BODY + 1, 413),
        ("/echo", "POST", {"X_Api_Key": "right", "Content_Type": "text/plain"}, 10 << 20, 415),
        ("/echo", "POST", {"X_Api_Key": "right", "Origin": "https://evil.example"}, 10 << 20, 403),
        ("/unread", "POST", {"X_Api_Key": "right"}, 10 << 20, 200),
    ],
)
def test_a_head_is_answered_before_its_body_comes(path: str, method: str, fields: dict[str, str], size: int, status: int) -> None:
    async def scenario() -> None:
        async with serving(keys=("right",)) as site:
            reader, writer = await site.connect()
            writer.write(request(path, method, Content_Length=str(size), **fields))
            found, headers, body = await read_answer(reader)
            assert (found, headers["connection"]) == (status, "close"), body
            assert await reader.read() == b""
            writer.write(b"x" * 100_000)  # later bytes of this client are not kept
            [connection] = site.server.connections
            await until(lambda: connection.transport.is_closing() or not connection._parser.num_body_bytes)
            writer.close()

    run(scenario())


@pytest.mark.parametrize("is_chunked", [False, True])
def test_all_large_bodies_together_are_bounded(is_chunked: bool) -> None:
    """Bodies that arrive, and those of running requests. Small bodies are always accepted."""

    def post(path: str, body: bytes, num_missing: int) -> bytes:
        if not is_chunked:
            return request(path, "POST", body)[: -num_missing or None]
        whole = request(path, "POST", Transfer_Encoding="chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        return whole[: -num_missing - 7 if num_missing else None]

    async def scenario() -> None:
        async with serving() as site:
            server = site.server
            server.max_held_bytes = 500_000
            coming, answered = await site.connect(), await site.connect()
            coming[1].write(post("/echo", b"x" * 200_000, 1))
            answered[1].write(post("/never", b"x" * 200_000, 0))
            await until(lambda: server.held_bytes == 399_999)
            status, headers, body = await site.ask(post("/echo", b"x" * 200_000, 0))
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close"), body
            assert (await site.ask(post("/echo", b"x" * 60_000, 0)))[0] == 200
            await until(lambda: server.held_bytes == 399_999)
            answered[1].close()
            await until(lambda: server.held_bytes == 199_999)
            reader, writer = await site.connect()
            for _ in range(2):
                writer.write(post("/echo", b"x" * 200_000, 0))
                assert (await read_answer(reader))[0] == 200
            await until(lambda: server.held_bytes == 199_999)
            writer.close()
            coming[1].close()
            await until(lambda: not server.held_bytes)

    run(scenario())


def test_a_small_body_that_is_refused_costs_no_connection() -> None:
    async def scenario() -> None:
        async with serving(keys=("right",)) as site:
            reader, writer = await site.connect()
            for _ in range(2):
                writer.write(request("/echo", "POST", b"hello"))
                status, headers, body = await read_answer(reader)
                assert (status, headers["www-authenticate"]) == (401, "Bearer")
                assert json.loads(body)["error"]["message"].startswith("Invalid API Key: none was sent")
                writer.write(request("/nothing", "POST", b"hello", X_Api_Key="right"))
                assert (await read_answer(reader))[0] == 404
                writer.write(request("/unread", "POST", b"hello", X_Api_Key="right"))
                assert (await read_answer(reader))[2] == b'{"got":""}'
                writer.write(request("/echo", "POST", b"hello", X_Api_Key="right"))
                assert (await read_answer(reader))[2] == b'{"got":"hello"}'
            writer.close()

    run(scenario())


def test_a_denied_request_waits_for_those_before_it() -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/slow") + request("/echo", "POST", b"a") + request("/nothing", "POST", Content_Length=str(10 << 20)))
            answers = [await read_answer(reader) for _ in range(3)]
            assert [status for status, _, _ in answers] == [200, 200, 404]
            assert await reader.read() == b""
            writer.close()

    run(scenario())


def count(kind: type) -> int:
    return sum(type(item) is kind for item in gc.get_objects())


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(request("/never", "POST", b"x" * 1_000_000), id="a whole body"),
        pytest.param(request("/never", "POST", b"x" * 1_000_000)[:-10], id="most of a body"),
        pytest.param(request("/never", "POST", b"x") + request("/echo", "POST", b"y"), id="a pipelined body"),
        pytest.param(request("/nothing", "POST", b"x"), id="a denied body"),
        pytest.param(request("/refuse", "GET", b"x"), id="a refused body"),
        pytest.param(request("/echo", "POST", b"x") + b"bad\r\n\r\n", id="no HTTP"),
    ],
)
def test_what_a_client_sent_is_freed_when_it_leaves(sent: bytes) -> None:
    """By counting references: objects that wait for the garbage collector may wait for hours."""

    async def scenario() -> None:
        async with serving() as site:
            gc.collect()
            before = count(Connection), count(Request)
            gc.disable()
            try:
                _, writer = await site.connect()
                writer.write(sent)
                await writer.drain()
                await until(lambda: count(Connection) > before[0])
                await asyncio.sleep(0.05)
                writer.close()
                await until(lambda: not site.server.connections)
                await until(lambda: count(Connection) <= before[0] and count(Request) <= before[1])
            finally:
                gc.enable()

    run(scenario())


@pytest.mark.parametrize("num_behind", [1, 100, 5000])
def test_a_client_that_leaves_pipelined_requests_behind_is_noticed(num_behind: int) -> None:
    async def scenario() -> None:
        async with serving() as site:
            _, writer = await site.connect()
            writer.write(request("/never", "POST", b"x") + request() * num_behind)
            writer.write_eof()
            await until(lambda: site.server.connections)
            await until(lambda: not site.server.connections)
            writer.close()

    run(scenario())


def test_slashes_make_no_difference() -> None:
    async def scenario() -> None:
        async with serving() as site:
            for path in ("/json/", "//json", "//json//"):
                assert (await site.ask(request(path)))[2] == b'{"path":"/json"}', path
            assert (await site.ask(request("/below//a/b/")))[2] == b'{"rest":"a/b"}'
            assert (await site.ask(request("/echo/", "POST", b"hi")))[2] == b'{"got":"hi"}'
            assert (await site.ask(request("/echo/")))[0] == 405
            assert (await site.ask(request("/health/")))[0] == 200

    run(scenario())
