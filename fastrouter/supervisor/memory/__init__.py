"""How much memory models need, and how much there is."""
