"""Calls that change or inspect a model: load, unload, pin, adapters, slot files."""
