"""Answers to the router's questions about a loaded model."""
