"""Requests that are wrong in one way each, by name. Every one is followed by FOLLOWER when it is sent: who reads the wrong one in another
way than its sender meant would answer that request too."""

HOST = b"Host: localhost\r\n"
FOLLOWER = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
_CONTROLS = (0, 1, 7, 8, 9, 10, 11, 12, 13, 27, 28, 31, 127, 128, 160, 255)


def head(line: bytes = b"POST /echo HTTP/1.1", *fields: bytes, host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def chunked(body: bytes, *fields: bytes) -> bytes:
    return head(b"POST /echo HTTP/1.1", b"Transfer-Encoding: chunked", *fields) + body


def malformed() -> dict[str, bytes]:
    return {
        name: data
        for family in (_request_lines, _fields, _hosts, _lengths, _transfer_encodings, _chunks, _trailers, _line_ends, _too_large)
        for name, data in family().items()
    }


def _request_lines() -> dict[str, bytes]:
    lines = [
        *(
            b"GET / HTTP/%b" % version
            for version in (b"0.9", b"1.2", b"1.9", b"1", b"1.10", b"1.1.1", b"01.1", b"1,1", b"-1.1", b"2.0", b"2", b"3.0")
        ),
        *(
            b"GET / %b" % version
            for version in (b"http/1.1", b"HTTPS/1.1", b"HTP/1.1", b"HTTP 1.1", b"HTTP/", b"HTTP", b"ICY/1.1", b"HTTP/1.1x", b"HTTP/ 1.1")
        ),
        *(
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET\t/ HTTP/1.1",
            b"GET /\tHTTP/1.1",
            b"GET /a b HTTP/1.1",
        ),
        *(b"GET", b"GET /", b"GET /x", b"GET HTTP/1.1", b"GET  HTTP/1.1", b"/ HTTP/1.1", b"HTTP/1.1 200 OK", b"GET / HTTP/1.1 HTTP/1.1"),
        *(
            b"%b / HTTP/1.1" % method
            for method in (
                b"G\x00T",
                b"G(T",
                b"G,T",
                b"G:T",
                b"G@T",
                b"G\xc3\x89T",
                b'"GET"',
                b"PRI",
                b"BREW",
                b"GE",
                b"GETS",
                b"get",
                b"Get",
            )
        ),
        *(
            b"GET %b HTTP/1.1" % target
            for target in (
                b"x",
                b"*",
                b"?",
                b"#",
                b"//\xff",
                b"/\xe2\x82\xac",
                b"http:/x",
                b"http://",
                b"ftp://x/",
                b"http://other/",
                b"http://localhost@other/",
                b"http://other@localhost/",
                b"localhost:80",
                b"\\",
            )
        ),
        *(b"CONNECT localhost:80 HTTP/1.1", b"CONNECT / HTTP/1.1", b"OPTIONS x HTTP/1.1", b"PRI * HTTP/2.0"),
        *(b"GET /%bx HTTP/1.1" % bytes([byte]) for byte in _CONTROLS),
        *(b"G%bT / HTTP/1.1" % bytes([byte]) for byte in _CONTROLS),
        *(b"%bGET / HTTP/1.1" % bytes([byte]) for byte in _CONTROLS),
    ]
    return {f"line {line!r}": head(line) for line in lines} | {
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(80),
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "two empty lines first": b"\r\n\r\n" + head(b"GET / HTTP/1.1"),
        "an LF first": b"\n" + head(b"GET / HTTP/1.1"),
        "zeros": bytes(64),
    }


def _fields() -> dict[str, bytes]:
    fields = [
        *(b"A%bB: x" % bytes([byte]) for byte in (*_CONTROLS, *b' "(),/:;<=>?@[\\]{}') if byte not in (10, ord(":"))),
        *(b"A: x%by" % bytes([byte]) for byte in (0, 1, 7, 8, 11, 12, 13, 27, 127)),
        *(
            b"A : x",
            b"A\t: x",
            b" A: x",
            b"\tA: x",
            b": x",
            b":",
            b"A",
            b"A x",
            b"A: 1\r\n B: 2",
            b"A: 1\r\n\tB: 2",
            b"A:\r\n x",
            b"A: 1\r\n ",
        ),
        *(b"Upgrade: websocket", b"Upgrade: h2c", b"Upgrade:", b"Expect: coffee", b"Expect: 100-continue, x", b"Expect:"),
        *(b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", b"\xef\xbb\xbfA: x", b"A\xc3\xa9: x"),
    ]
    return {f"field {field!r}": head(b"GET / HTTP/1.1", field) for field in fields}


def _hosts() -> dict[str, bytes]:
    hosts = {
        "none": b"",
        "two": HOST * 2,
        "two that differ": HOST + b"Host: other\r\n",
        "three": HOST * 3,
        "two in other cases": HOST + b"HOST: localhost\r\n",
        "with a blank": b"Host : localhost\r\n",
        "folded": b"Host:\r\n localhost\r\n",
        "on a folded line": b"A: x\r\n Host: localhost\r\n",
        "with a NUL": b"Host: local\0host\r\n",
    }
    return {f"host {name}": head(b"GET / HTTP/1.1", host=host) for name, host in hosts.items()} | {
        "host two on 1.0": head(b"GET / HTTP/1.0", host=HOST * 2)
    }


def _lengths() -> dict[str, bytes]:
    values = (
        *(
            b"-1",
            b"+3",
            b"3.0",
            b"0x3",
            b"3 3",
            b"3,3",
            b"3, 3",
            b"3;3",
            b"three",
            b"",
            b" ",
            b"3a",
            b"a3",
            b"3_0",
            b"1e1",
            b"\xb3",
            b"\xd9\xa3",
            b'"3"',
        ),
        *(
            b"18446744073709551615",
            b"18446744073709551616",
            b"18446744073709551619",
            b"9223372036854775808",
            b"4294967299",
            b"9" * 40,
            b"67108865",
        ),
        *(b"3\x0b", b"\x0c3", b"3\0", b"3\r", b"3 \r\n 4", b"\r\n 3"),
    )
    twice = ((b"3", b"3"), (b"3", b"4"), (b"0", b"3"), (b"3", b""))
    names = (b"Content-Length :", b"Content-Length\t:", b"Content-Length", b" Content-Length:", b"Content\0-Length:", b"Content-Length\0:")
    fields = {repr(value): [b"Content-Length: " + value] for value in values}
    fields |= {f"{first!r} {second!r}": [b"Content-Length: " + first, b"content-length: " + second] for first, second in twice}
    fields |= {f"after {name!r}": [name + b" 3"] for name in names}
    return {f"length {name}": head(b"POST /echo HTTP/1.1", *lines) + b"abc" for name, lines in fields.items()}


def _transfer_encodings() -> dict[str, bytes]:
    body = b"3\r\nabc\r\n0\r\n\r\n"
    values = (
        *(
            b"gzip, chunked",
            b"chunked, gzip",
            b"chunked, chunked",
            b"gzip",
            b"identity",
            b"identity, chunked",
            b"chunked, identity",
            b"xchunked",
            b"chunkedx",
        ),
        *(
            b"",
            b"chunked;q=1",
            b"chunked ;",
            b", chunked",
            b"chunked,",
            b'"chunked"',
            b"x",
            b"\x0bchunked",
            b"chunked\x0b",
            b"chunked\0",
            b"\r\n chunked",
            b"chu nked",
        ),
    )
    result = {f"encoding {value!r}": head(b"POST /echo HTTP/1.1", b"Transfer-Encoding: " + value) + body for value in values}
    encoding = b"Transfer-Encoding: chunked"
    return result | {
        "encoding twice": head(b"POST /echo HTTP/1.1", encoding, encoding) + body,
        "encoding twice, other case": head(b"POST /echo HTTP/1.1", encoding, b"transfer-encoding: Chunked") + body,
        "encoding twice, one unknown": head(b"POST /echo HTTP/1.1", encoding, b"Transfer-Encoding: cow") + body,
        "encoding and length": head(b"POST /echo HTTP/1.1", encoding, b"Content-Length: 3") + body,
        "length and encoding": head(b"POST /echo HTTP/1.1", b"Content-Length: 13", encoding) + body,
        "length 0 and encoding": head(b"POST /echo HTTP/1.1", b"Content-Length: 0", encoding) + body,
        "encoding on 1.0": head(b"POST /echo HTTP/1.0", encoding) + body,
        "encoding on 1.0, kept": head(b"POST /echo HTTP/1.0", encoding, b"Connection: keep-alive") + body,
        "encoding with a blank before the colon": head(b"POST /echo HTTP/1.1", b"Transfer-Encoding : chunked") + body,
        "encoding with a tab before the colon": head(b"POST /echo HTTP/1.1", b"Transfer-Encoding\t: chunked") + body,
        "encoding after a NUL": head(b"POST /echo HTTP/1.1", b"\0Transfer-Encoding: chunked") + body,
        "encoding on a folded line": head(b"POST /echo HTTP/1.1", b"A: x\r\n Transfer-Encoding: chunked") + body,
    }


def _chunks() -> dict[str, bytes]:
    sizes = (
        *(
            b"",
            b" ",
            b"g",
            b"-3",
            b"+3",
            b"0x3",
            b"3 ",
            b" 3",
            b"3\t",
            b"3 x",
            b"3.0",
            b"3,3",
            b"\xb3",
            b"3\0",
            b"3\r",
            b"3_",
            b"3\x0b",
            b"\r\n3",
        ),
        *(
            b"10000000000000003",
            b"ffffffffffffffff",
            b"fffffffffffffffff",
            b"8000000000000000",
            b"7fffffffffffffff",
            b"4000001",
            b"0" * 17 + b"3",
        ),
        *(b";a=b", b"3;\ra", b"3;" + b"a" * 2000, b"3" + b" " * 2000 + b";a"),
    )
    bodies = {
        "a chunk too long": b"3\r\nabcd\r\n0\r\n\r\n",
        "a chunk too short": b"4\r\nabc\r\n0\r\n\r\n",
        "no end of a chunk": b"3\r\nabc0\r\n\r\n",
        "an LF after a chunk": b"3\r\nabc\n0\r\n\r\n",
        "a CR after a chunk": b"3\r\nabc\r0\r\n\r\n",
        "an LF after a size": b"3\nabc\r\n0\r\n\r\n",
        "a CR after a size": b"3\rabc\r\n0\r\n\r\n",
        "an LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        "two line ends after a chunk": b"3\r\nabc\r\n\r\n0\r\n\r\n",
        "blanks after a chunk": b"3\r\nabc  \r\n0\r\n\r\n",
        "an LF at the end": b"3\r\nabc\r\n0\r\n\n",
        "an LF after the last size": b"3\r\nabc\r\n0\n\r\n",
    }
    return {f"chunk size {size[:20]!r} {len(size)}": chunked(size + b"\r\nabc\r\n0\r\n\r\n") for size in sizes} | {
        f"chunks: {name}": chunked(body) for name, body in bodies.items()
    }


def _trailers() -> dict[str, bytes]:
    lines = (
        b"A",
        b": x",
        b" A: x",
        b"A : x",
        b"A\0: x",
        b"A: x\0",
        b"A: x\ry",
        b"A(: x",
        b"A: " + b"x" * 9000,
        b"A: x\n",
        b"\tx",
        b"A\xff: x",
    )
    return {f"trailer {line[:12]!r}": chunked(b"3\r\nabc\r\n0\r\n" + line + b"\r\n\r\n") for line in lines} | {
        "too many trailers": chunked(b"0\r\n" + b"A: x\r\n" * 101 + b"\r\n")
    }


def _line_ends() -> dict[str, bytes]:
    good = head(b"GET / HTTP/1.1", b"A: x", b"B: y")
    ends = [at for at in range(len(good)) if good[at : at + 2] == b"\r\n"]
    places = [(at, name, end) for at in ends for name, end in (("LF", b"\n"), ("CR", b"\r"), ("CRCRLF", b"\r\r\n"), ("LFCR", b"\n\r"))]
    return {f"{name} at {at}": good[:at] + end + good[at + 2 :] for at, name, end in places} | {
        "LF everywhere": good.replace(b"\r\n", b"\n")
    }


def _too_large() -> dict[str, bytes]:
    return {
        "a long request line": head(b"GET /" + b"x" * 8192 + b" HTTP/1.1"),
        "a long field": head(b"GET / HTTP/1.1", b"A: " + b"x" * 8192),
        "a long name": head(b"GET / HTTP/1.1", b"x" * 8192 + b": A"),
        "many fields": head(b"GET / HTTP/1.1", *[b"A: x"] * 101),
        "a large head": head(b"GET / HTTP/1.1", *[b"A: " + b"x" * 8000] * 5),
    }
