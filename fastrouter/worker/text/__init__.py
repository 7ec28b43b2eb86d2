"""Text to tokens and back: templates, prompts, detokenizer."""
