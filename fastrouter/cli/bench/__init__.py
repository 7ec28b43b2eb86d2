"""`fastrouter bench`: how fast a running server answers and switches."""
