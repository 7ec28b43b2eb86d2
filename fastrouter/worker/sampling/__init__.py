"""Which token comes next: sampler, grammars, probabilities."""
