"""The machine, files and words. Never imports: config, ipc, worker."""
