"""Request bodies: fields, checks, messages, constraints."""
