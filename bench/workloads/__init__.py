"""What people ask: texts, pictures and conversations, a function of seed and language alone."""
