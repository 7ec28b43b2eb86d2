"""llama.cpp through ctypes: library, model, context, batch, vocabulary."""
