"""Who is resident: queue, memory, loads, evictions, workers."""
