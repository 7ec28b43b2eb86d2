"""What models write: tool calls and thoughts, read while the text comes."""
