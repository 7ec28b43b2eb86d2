"""Routes, API flavours, requests and answers."""
