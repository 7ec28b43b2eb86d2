"""The models as clients see them: listing, events, downloads, logs, usage."""
