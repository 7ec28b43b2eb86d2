"""Limits that flags, requests and files share."""

INT32_MAX = 2**31 - 1
UINT32_MAX = 2**32 - 1
FLOAT_MAX = 3.4e38  # of C's float, rounded down
MAX_CPUS = 512  # llama.cpp's limit
MAX_SCALE = 1000.0  # of an adapter: what is beyond it only overflows
