"""Changing a running server: what other settings ask for, and how services get there while they answer."""
