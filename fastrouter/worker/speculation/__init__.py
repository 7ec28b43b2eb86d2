"""Guessed tokens and how many pay off."""
