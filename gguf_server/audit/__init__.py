"""One line for each request, without content, in files whose lines are chained by keyed hashes.

chain        a line's place and seal; pure
secret       the key file, and the keys that are made of it
prompt_hash  the keyed hash of what a client asked
entries      what a line says of a request
head         the file that says where the chain ends
tail         the end of a file, as a server finds it that starts
files        the files of one audit, and their lines
log_file     adding to the chain: recovery, rotation, durability
writer       from the event loop to the file, in a thread of its own
auditor      which requests are told, and whether new ones may come
verify       what is wrong with a chain
"""
