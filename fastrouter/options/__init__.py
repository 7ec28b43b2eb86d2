"""Options as plain data, shared by the router and its workers."""
