"""Replaces diskcache in the executable: llama_cpp's high-level modules import it, and fastrouter uses none of them."""
