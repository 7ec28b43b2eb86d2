"""The worker processes as the router sees them."""
