"""Which models are in memory: queue, memory, loads, evictions, workers. Never imports: http, worker."""
