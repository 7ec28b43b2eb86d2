"""How much memory models need and have."""
