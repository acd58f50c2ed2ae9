"""The llama.cpp worker: its pure parts, and the real process on the real small model."""
