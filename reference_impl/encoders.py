"""Libraries that turn text into token ids: one class for each, all with the same few methods.

Each library is imported when a file of its kind is opened. None appends or prepends anything to a text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmark.errors import HarnessError


class UnreadableTokenizerError(HarnessError):
    """A file that the library does not accept as its own; the message says why."""


@dataclass(frozen=True)
class Encoded:
    """Several texts as tokens."""

    tokens: np.ndarray[Any, Any]
    """[sum of lengths], in the order of the texts."""
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    """[texts]"""


class Encoder(Protocol):
    @property
    def vocab_size(self) -> int: ...
    @property
    def eod(self) -> int:
        """The end-of-sequence token."""

    def encode(self, texts: Sequence[str]) -> Encoded: ...
    def decode(self, tokens: Sequence[int]) -> str: ...


def _packed(texts: Sequence[Sequence[int]]) -> Encoded:
    lengths = np.fromiter(map(len, texts), np.int64, count=len(texts))
    return Encoded(np.fromiter(chain.from_iterable(texts), np.int32, count=int(lengths.sum())), lengths)


class SentencePiece:
    """A SentencePiece model, read by Google's library."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self.processor = SentencePieceProcessor()
        try:
            self.processor.Load(str(path))
        except (OSError, RuntimeError) as error:
            raise UnreadableTokenizerError(str(error).strip()) from None
        self.vocab_size = int(self.processor.vocab_size())
        self.eod = int(self.processor.eos_id())

    def encode(self, texts: Sequence[str]) -> Encoded:
        return _packed([self.processor.encode(text) for text in texts])

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.processor.decode(list(tokens))
        return text


class Mixtral(SentencePiece):
    """The benchmark's SentencePiece model, as Hugging Face's Llama tokenizer reads it, which made the published data.

    It differs from SentencePiece where a text spells a control symbol, such as `</s>`: the text is cut there, the
    symbol becomes its id, and the text between two symbols is encoded by itself. Elsewhere the ids are SentencePiece's
    own. gigatoken, if it is installed, finds them faster: it cuts where no piece of the vocabulary can span the cut and
    remembers the ids of what it has seen. Its memory is dropped after FORGET_AFTER tokens.
    """

    FORGET_AFTER = 200_000_000
    """Tokens, about those of a shard of C4. gigatoken promises no bound on its memory; 60 million tokens of Python took
    40 MiB. Reading the vocabulary again takes 0.4 s."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._symbols = {
            self.processor.id_to_piece(index): index
            for index in (self.processor.unk_id(), self.processor.bos_id(), self.processor.eos_id())
        }
        self._spelt = re.compile("(" + "|".join(map(re.escape, self._symbols)) + ")")
        self._path = path
        self._remembered = 0

    @cached_property
    def _gigatoken(self) -> Any:
        """gigatoken's reading of the file, made when the first text is encoded; None if it is not installed."""
        if find_spec("gigatoken") is None:
            return None
        from gigatoken import Tokenizer

        return Tokenizer.from_sentencepiece(self._path)

    def encode(self, texts: Sequence[str]) -> Encoded:
        if any("<" in text and self._spelt.search(text) for text in texts):
            return _packed([self._with_symbols(text) for text in texts])
        if self._gigatoken is None:
            return super().encode(texts)
        if self._remembered > self.FORGET_AFTER:
            del self._gigatoken
            self._remembered = 0
        tokens = self._gigatoken.encode_batch(list(texts), parallel=False).layout
        starts = tokens.offsets.data
        self._remembered += int(starts[-1] - starts[0])
        return Encoded(tokens.content.data[starts[0] : starts[-1]], np.diff(starts))

    def _with_symbols(self, text: str) -> list[int]:
        tokens: list[int] = []
        for part in self._spelt.split(text):
            tokens += [self._symbols[part]] if part in self._symbols else self.processor.encode(part)
        return tokens


class HuggingFace:
    """A tokenizer.json, read by Hugging Face's tokenizers library."""

    _ENDS = "</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>"

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises Exception itself, for whatever is wrong
            raise UnreadableTokenizerError(str(error)) from None
        self.vocab_size = int(self._tokenizer.get_vocab_size())
        ends = [index for index in map(self._tokenizer.token_to_id, self._ENDS) if index is not None]
        if not ends:
            raise UnreadableTokenizerError(f"its vocabulary has none of {', '.join(self._ENDS)}")
        self.eod = int(ends[0])

    def encode(self, texts: Sequence[str]) -> Encoded:
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return _packed([encoding.ids for encoding in found])

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text


class Llama3:
    """Llama 3's tokenizer: a list of tiktoken ranks, cut by the pattern and followed by the 256 special tokens of
    Meta's `llama_models/llama3/tokenizer.py`."""

    PATTERN = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    _SPECIAL_TOKENS = 256

    def __init__(self, path: Path) -> None:
        from tiktoken import Encoding

        ranks = self.ranks(path)
        try:
            self._encoding = Encoding(path.name, pat_str=self.PATTERN, mergeable_ranks=ranks, special_tokens={})
        except ValueError as error:
            raise UnreadableTokenizerError(str(error)) from None
        self.vocab_size = len(ranks) + self._SPECIAL_TOKENS
        # <|begin_of_text|> is the first special token, <|end_of_text|> the second.
        self.eod = len(ranks) + 1

    @staticmethod
    def ranks(path: Path) -> dict[bytes, int]:
        """Return the file's tokens and their ids, without the special ones.

        Raises:
            UnreadableTokenizerError: a line is not a token and its rank.
        """
        try:
            # tiktoken's own reader keeps a copy under /tmp, and reads only that from then on.
            lines = [line.split() for line in path.read_bytes().splitlines() if line]
            return {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
        except ValueError as error:
            raise UnreadableTokenizerError(str(error)) from None

    def encode(self, texts: Sequence[str]) -> Encoded:
        return _packed(self._encoding.encode_ordinary_batch(list(texts), num_threads=1))

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._encoding.decode([token for token in tokens if token < self.eod - 1])
        return text
