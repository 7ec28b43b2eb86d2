"""The APIs that clients speak: OpenAI's, llama-server's own, vectors."""
