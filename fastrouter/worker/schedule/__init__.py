"""Which tokens go into the next batch. Pure."""
