"""Suites as data, and their course from the first server to the last run. The project's own are the TOML files here."""
