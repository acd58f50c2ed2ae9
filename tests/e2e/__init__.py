"""The real program, started as its users start it, with the real small model and the clients that people have."""
