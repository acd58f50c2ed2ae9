"""vLLM as a supervised child: what is installed, its command line, what a start needs, and why one ended.

vLLM is never imported: it lives in whatever interpreter the specification names.
"""
