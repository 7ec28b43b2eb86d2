"""Limits that flags and requests share."""

MAX_CPUS = 512  # llama.cpp's limit
MAX_SCALE = 1000.0  # of an adapter: what is beyond it only overflows
