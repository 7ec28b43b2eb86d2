"""Bytes of HTTP: connections, routes, keys, TLS. Knows no model."""
