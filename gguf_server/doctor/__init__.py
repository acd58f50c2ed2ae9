"""What is right and wrong with this machine and its configuration.

`*_facts` look, and judge nothing; the checks beside them judge facts, and look at nothing, so that any machine's can be
put to them.
"""
