"""The process itself: fork, spare, heap, memory footprint."""
