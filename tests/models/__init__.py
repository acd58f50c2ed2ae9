"""Small models with random weights and real architectures, made by the tests.

`write(name, path)` makes one in well under a second, the same bytes every time. What is real: the architecture, its
hyperparameters and tensors (sliding windows, shared KV layers, per-layer embeddings …), the kind of its tokeniser, its
control tokens, and a template that renders as that of the model it stands for. Its size and what it says are not.

A model never says a control token, a marker or half a character by itself: those come by `logit_bias` or a grammar.
"""

from tests.models.catalogue import MODELS, write
from tests.models.gguf_file import ModelOptions

__all__ = ["MODELS", "ModelOptions", "write"]
