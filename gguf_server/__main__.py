"""`python -m gguf_server` is `gguf-server`."""

from gguf_server.cli import main

if __name__ == "__main__":
    main()
