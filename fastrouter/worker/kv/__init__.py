"""What the KV cache holds: slots, prefixes, checkpoints, the prompt cache."""
