"""Replaces PyInstaller's own hook, which would add what the stand-in leaves out."""
