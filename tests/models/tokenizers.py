"""The kinds of tokenisers, with the control tokens of the models they stand for."""

from __future__ import annotations

from pathlib import Path

from gguf import TokenType

from tests.models.vocabulary import WORDS, Vocabulary

_TEMPLATES = Path(__file__).parent / "templates"
_PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]
_LETTERS = "àáảãạăâđèéẻẽẹêìíòóôơùúưỳýệếộ你好天空蓝色为什么是的我们"

_QWEN_CONTROL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
)
_QWEN_MARKERS = "<tool_call> </tool_call>"
_QWEN3_MARKERS = "<tool_call> </tool_call> <tool_response> </tool_response> <think> </think>"

_GEMMA_CONTROL = (
    "<|tool> <tool|> <|think|> <|turn> <turn|> <|image> <image|> <|image|> <|audio> <audio|> <|audio|> <|video|>"
)
# The converter marks these as user-defined, so that they are rendered and a parser can read them.
_GEMMA4_MARKERS = '<|channel> <channel|> <|tool_call> <tool_call|> <|tool_response> <tool_response|> <|"|>'


def qwen3(n_vocab: int = 0) -> Vocabulary:
    return _qwen(_QWEN3_MARKERS, "qwen3", n_vocab)


def qwen2(n_vocab: int = 0) -> Vocabulary:
    return _qwen(_QWEN_MARKERS, "qwen2", n_vocab)


def qwen3_embedding(n_vocab: int = 0) -> Vocabulary:
    """As Qwen3-Embedding's: a text ends with the token whose state is its vector."""
    vocabulary = _qwen(_QWEN3_MARKERS, "qwen3", n_vocab)
    vocabulary.name_special({"eos": "<|endoftext|>"})
    vocabulary.add_eos = True
    return vocabulary


def _qwen(markers: str, template: str, n_vocab: int) -> Vocabulary:
    vocabulary = _byte_level("qwen2")
    vocabulary.add_all(_QWEN_CONTROL, TokenType.CONTROL)
    vocabulary.add_all(markers, TokenType.USER_DEFINED)
    vocabulary.pad(n_vocab, "Ġ")
    vocabulary.name_special({"bos": "<|endoftext|>", "eos": "<|im_end|>", "padding": "<|endoftext|>"})
    vocabulary.chat_template = _template(template)
    return vocabulary


def plain(n_vocab: int = 0) -> Vocabulary:
    """Byte-level, an end of text and nothing else: a base model's, without a chat template."""
    vocabulary = _byte_level("gpt-2")
    vocabulary.add("<|endoftext|>", TokenType.CONTROL)
    vocabulary.pad(n_vocab, "Ġ")
    vocabulary.name_special({"bos": "<|endoftext|>", "eos": "<|endoftext|>"})
    return vocabulary


def _byte_level(pre: str) -> Vocabulary:
    """GPT-2's: every byte has a printable character, a space is part of the word behind it."""
    vocabulary = Vocabulary("gpt2", pre)
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    for byte in range(256):
        char = chr(byte) if byte in printable else chr(256 + moved.index(byte))
        vocabulary.add(char, quiet=not 0x20 <= byte < 0x7F)
    vocabulary.add_words("Ġ")
    return vocabulary


def gemma4(n_vocab: int = 0) -> Vocabulary:
    """Pieces as SentencePiece has them (`▁the`, bytes as `<0x0A>`), put together by merges."""
    vocabulary = _gemma("gemma4", n_vocab)
    vocabulary.chat_template = _template("gemma4")
    return vocabulary


def gemma3(n_vocab: int = 0) -> Vocabulary:
    """Gemma 4's, with Gemma 3's turns. (The real one is of SentencePiece, whose pieces need scores.)"""
    vocabulary = _gemma("gemma4", n_vocab, turns="<start_of_turn> <end_of_turn> <start_of_image> <end_of_image>")
    vocabulary.chat_template = _template("gemma3")
    return vocabulary


def _gemma(model: str, n_vocab: int, turns: str = "") -> Vocabulary:
    vocabulary = Vocabulary(model, add_bos=True)
    vocabulary.add_all(("<pad>", "<eos>", "<bos>"), TokenType.CONTROL)
    vocabulary.add("<unk>", TokenType.UNKNOWN)
    vocabulary.add("<mask>", TokenType.CONTROL)
    vocabulary.add_all(turns or _GEMMA_CONTROL, TokenType.CONTROL)
    vocabulary.add_all("" if turns else _GEMMA4_MARKERS, TokenType.USER_DEFINED)
    for n_lines in range(1, 5):
        vocabulary.add("\n" * n_lines, quiet=True)
    vocabulary.add_all((f"<0x{byte:02X}>" for byte in range(256)), TokenType.BYTE)
    vocabulary.add_all([*_PRINTABLE, "▁", *_LETTERS])
    vocabulary.add_words("▁")
    vocabulary.pad(n_vocab, "▁")
    vocabulary.name_special({"bos": "<bos>", "eos": "<eos>", "unknown": "<unk>", "padding": "<pad>", "mask": "<mask>"})
    return vocabulary


def bert(n_vocab: int = 0) -> Vocabulary:
    """WordPiece, as the converter writes it: what begins a word begins with `▁`."""
    vocabulary = Vocabulary("bert", add_bos=True)
    vocabulary.add_all(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), TokenType.CONTROL)
    letters = [char for char in _PRINTABLE if not char.isupper()]
    vocabulary.add_all([*letters, *(f"▁{char}" for char in letters)])
    vocabulary.add_all(f"▁{word.lower()}" for word in WORDS.split())
    vocabulary.pad(n_vocab, "▁")
    vocabulary.name_special(
        {"bos": "[CLS]", "unknown": "[UNK]", "seperator": "[SEP]", "padding": "[PAD]", "mask": "[MASK]"}
    )
    return vocabulary


def _template(name: str) -> str:
    return (_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
