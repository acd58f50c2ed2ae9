"""The gateway for half an hour under twice the load it can carry, while its engines die: `python -m tests.soak`."""
