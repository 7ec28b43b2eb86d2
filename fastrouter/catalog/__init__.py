"""Which models there are. Never imports: supervisor, worker, http."""
