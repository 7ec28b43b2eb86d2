"""Requests become sequences; a step decodes them together."""
