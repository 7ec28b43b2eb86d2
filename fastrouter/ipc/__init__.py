"""The messages and records between the router and its workers. Never imports: system, options.limits."""
