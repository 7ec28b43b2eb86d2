"""Bytes of HTTP: connections, routes, keys, TLS."""
