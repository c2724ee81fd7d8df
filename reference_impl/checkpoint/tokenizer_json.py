"""Hugging Face's tokenizer.json, made from other tokenizer formats, so that a server needs no other library.

The format is that of the tokenizers library (https://huggingface.co/docs/tokenizers). A converted tokenizer gives the
tokens that training saw: it adds no token to a text, since no document of the training data begins with one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_impl.encoders import Llama3, SentencePiece

LLAMA_31_SYMBOLS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
)
"""Special tokens that follow Llama 3.1's ranks, as its tokenizer.json on Hugging Face names them."""


def of_sentencepiece(path: Path) -> dict[str, Any]:
    """Convert a SentencePiece model of byte pairs.

    Two pieces merge if their union is a piece; the union with the best score comes first.

    Raises:
        UnreadableTokenizerError: the file is not a SentencePiece model of byte pairs.
    """
    processor = SentencePiece(path).processor
    pieces = [processor.id_to_piece(index) for index in range(processor.vocab_size())]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    symbols = {pieces[index]: index for index in (processor.unk_id(), processor.bos_id(), processor.eos_id())}
    scored = [
        (processor.get_score(index), cut, len(piece) - cut, piece)
        for index, piece in enumerate(pieces)
        if piece not in symbols and not processor.is_byte(index)
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    merges = ((piece[:cut], piece[cut:]) for _, cut, _, piece in sorted(scored, reverse=True))
    return _tokenizer(
        symbols,
        normalizer=_sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, _replace(" ", "▁")),
        decoder=_sequence(
            "decoders",
            _replace("▁", " "),
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ),
        model=_byte_pairs(vocabulary, merges, unk_token=pieces[processor.unk_id()], fuse_unk=True, byte_fallback=True),
    )


def of_ranks(path: Path) -> dict[str, Any]:
    """Convert Llama 3's list of tiktoken ranks.

    Two tokens merge if their union is a token; the union with the lowest rank comes first.

    Raises:
        UnreadableTokenizerError: the file is not a list of ranks.
    """
    ranks = Llama3.ranks(path)
    merges = [
        (rank, ranks[token[:cut]], ranks[token[cut:]], token, cut)
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    letters = _byte_letters()

    def spelt(token: bytes) -> str:
        return "".join(map(letters.__getitem__, token))

    split = {"type": "Split", "pattern": {"Regex": Llama3.PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return _tokenizer(
        {symbol: len(ranks) + number for number, symbol in enumerate(LLAMA_31_SYMBOLS)},
        pre_tokenizer=_sequence("pretokenizers", split, byte_level),
        decoder=byte_level,
        model=_byte_pairs(
            {spelt(token): rank for token, rank in ranks.items()},
            ((spelt(token[:cut]), spelt(token[cut:])) for *_, token, cut in sorted(merges)),
            ignore_merges=True,
        ),
    )


def _tokenizer(symbols: Mapping[str, int], **parts: Any) -> dict[str, Any]:
    """Return the whole document. Text that spells a symbol becomes that symbol's id."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": index, "content": symbol, **plain} for symbol, index in sorted(symbols.items(), key=_second)]
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **empty, "added_tokens": added, **parts}


def _second(pair: tuple[str, int]) -> int:
    return pair[1]


def _byte_pairs(vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]], **more: Any) -> dict[str, Any]:
    return {"type": "BPE", **more, "vocab": dict(vocabulary), "merges": [" ".join(pair) for pair in merges]}


def _sequence(name: str, *parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(parts)}


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _byte_letters() -> Sequence[str]:
    """Return the letter for each byte: the byte itself where it is printable, otherwise the next letter after U+00FF.

    Source: bytes_to_unicode of OpenAI's GPT-2, which every byte-level tokenizer.json follows.
    """
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]
