"""What a measurement leaves behind: its file, what that must not tell, and how figures are named and put together."""
