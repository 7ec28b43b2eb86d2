"""The machine, files and words. Knows no model."""
