"""In the executable, instead of diskcache: llama_cpp's high-level modules import it at once, and fastrouter uses none of them."""
