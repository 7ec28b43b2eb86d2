"""Files from a model hub: download, resume, remove. Never imports: catalog.catalog, supervisor, http."""
