"""A recorded trace through the real supervisor, with a simulated clock and workers without processes. Never imports: http, api, app."""
