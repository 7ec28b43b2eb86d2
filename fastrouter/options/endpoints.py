"""RPC servers: HOST:PORT, and what llama.cpp says when it has lost one. Pure."""

MAX_SERVERS = 16  # llama.cpp's limit
DEFAULT_PORT = 50052  # llama.cpp's
LOST_SERVER = "Remote RPC server crashed"  # its last words in a process whose connection has ended


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Raises ValueError. llama.cpp knows names and IPv4 addresses."""
    host, _, port = endpoint.partition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{endpoint!r} is not HOST:PORT")
    return host, int(port)
