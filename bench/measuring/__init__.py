"""Loads on a server, and what is told of it meanwhile: times, memory, power, and who answered."""
