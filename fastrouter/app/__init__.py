"""What is started, wired together and reported to systemd."""
