"""One generation from its request to its last byte."""
