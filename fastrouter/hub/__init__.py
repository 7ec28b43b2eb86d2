"""Files from a model hub: download, resume, remove."""
