"""Which pages of other sites may use the API. The flags' defaults are here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cors:
    """llama-server's --cors-* flags. `origins`: "localhost" (local origins are reflected), "*", or a comma-separated list."""

    origins: str = "localhost"
    methods: str = "GET, POST, DELETE, OPTIONS"
    headers: str = "*"
    credentials: bool = True
