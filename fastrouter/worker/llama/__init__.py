"""llama.cpp through ctypes: library, model, context, batch, vocabulary. Never imports: worker.kv, worker.sampling, worker.sequence."""
