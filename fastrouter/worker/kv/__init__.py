"""The content of the KV cache: slots, prefixes, checkpoints, the prompt cache."""
