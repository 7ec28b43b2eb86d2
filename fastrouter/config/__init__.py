"""Flags, environment variables and preset files."""
