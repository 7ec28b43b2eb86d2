"""Replaces cryptography in the executable: MCP's client imports its server, which seals states with it. fastrouter is only a client."""

import sys
from types import ModuleType

USED = {
    "exceptions": "InvalidTag",
    "hazmat.primitives.ciphers.aead": "AESGCM",
    "hazmat.primitives.hashes": "SHA256",
    "hazmat.primitives.kdf.hkdf": "HKDF",
}


class NotHere(Exception):
    def __init__(self, *arguments: object, **more: object) -> None:
        raise NotImplementedError("the executable has no cryptography")


for place, name in USED.items():
    path = f"{__name__}.{place}"
    for end in [at for at, letter in enumerate(path) if letter == "."]:
        sys.modules.setdefault(path[:end], ModuleType(path[:end]))
    sys.modules[path] = ModuleType(path)
    setattr(sys.modules[path], name, NotHere)
