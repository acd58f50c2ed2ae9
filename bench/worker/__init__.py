"""The parts of `bench.worker_table`: the llama.cpp worker beside llama-server."""
