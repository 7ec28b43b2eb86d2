"""Limits and defaults that several packages share."""

INT32_MAX = 2**31 - 1
UINT32_MAX = 2**32 - 1
FLOAT_MAX = 3.4e38  # of C's float, rounded down
MAX_CPUS = 512  # llama.cpp's limit, GGML_MAX_N_THREADS
MIN_FLASH_HEAD_SIZE = 32  # smaller heads do not use flash attention on CPUs
POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}  # llama.cpp's numbers
DEFAULT_POLL = 50  # how long the workers' threads look for work: 0 not at all, 100 about a millisecond
DEFAULT_PATIENCE_S = 1.0  # seconds that requests for models in memory may overtake one that waits for its model
MAX_FIRST_MESSAGES = 256  # of a model's preset
MAX_SCALE = 1000.0  # of an adapter: larger values only overflow
KEPT_PICTURES_BYTES = 64 << 20  # of the embeddings of one model's pictures, which a second use of them needs
