"""Pictures: files -> tokens and embeddings, in threads beside the loop."""
