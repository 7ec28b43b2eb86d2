"""What models write: tool calls and thoughts in their text, read as it comes."""
