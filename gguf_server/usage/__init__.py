"""What each key used, by day, service, model and engine: counted as requests end, kept in an SQLite file.

counts       what is counted, and under which name
ledger       the file: its schema, adding to it, asking it
recorder     from the requests' records to the file, off their path
report       what people ask: grouped, with the keys' names
rendering    the answer as a table, JSON or CSV
"""
