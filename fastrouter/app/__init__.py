"""What is started, connected and reported to systemd."""
