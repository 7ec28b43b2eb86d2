"""Guessed tokens, and how many of them are worth guessing."""
