"""What the router and its workers say to each other."""
