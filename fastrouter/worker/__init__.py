"""One model's process."""
