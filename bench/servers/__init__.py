"""The servers that are measured: what they are built from, how they are started alike, and how they end."""
