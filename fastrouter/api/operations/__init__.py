"""Health, metrics and the files of the page."""
