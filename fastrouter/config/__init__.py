"""Flags, environment variables and preset files. Never imports: catalog, http, worker."""
