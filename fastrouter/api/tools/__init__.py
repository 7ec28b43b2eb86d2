"""Tools of the server: built-in ones and those of MCP servers. What they do, they do in processes of their own."""
