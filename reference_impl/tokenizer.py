"""A tokenizer file of any kind: text in, token ids out, and the checksum that identifies the tokenizer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.benchmarks import DEFAULT, MIXTRAL_8X22B, BenchmarkTokenizer, TokenizerKind
from benchmark.errors import RefusedError

if TYPE_CHECKING:
    import numpy as np

    from reference_impl.encoders import Encoded, Encoder

_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


class TokenizerError(RefusedError):
    """A tokenizer file that is missing, unreadable, or not the one expected."""


def benchmark_tokenizer(wanted: BenchmarkTokenizer = DEFAULT.tokenizer) -> Path:
    """Return the file of a benchmark's tokenizer in the installed mistral-common, without importing that package.

    Raises:
        TokenizerError: no package has this tokenizer, the package is not installed, or its file has other content.
    """
    if not wanted.installed:
        raise TokenizerError(
            f"TOKENIZER is not set, and no package has {wanted.about} tokenizer; set it to the file "
            f"({' or '.join(sorted(wanted.kinds))}, {wanted.vocabulary:,} pieces)"
            + (f"; {wanted.licence}" if wanted.licence else "")
        )
    spec = find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise TokenizerError(
            "mistral-common is not installed; setup.sh installs it, or set TOKENIZER to a SentencePiece model"
        )
    path = Path(spec.origin).parent / "data" / "tokenizer.model.v1"
    digest = sha256(path)
    if digest != wanted.sha256:
        raise TokenizerError(f"{path}: sha256 is {digest}, expected {wanted.sha256}")
    return path


class Tokenizer:
    """A tokenizer file, with the few methods that Megatron-Core's datasets need.

    It may be a SentencePiece model (Mixtral, GPT-3), Llama 3's tiktoken ranks, or Hugging Face's tokenizer.json; its
    content decides.

    Raises:
        TokenizerError: it cannot be read, or the package that reads its kind is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = sha256(path)
        try:
            self._encoder = self._load()
        except ModuleNotFoundError as error:
            raise TokenizerError(f"{path}: reading it needs the {error.name} package, which is not installed") from None

    def _load(self) -> Encoder:
        from reference_impl import encoders

        self.kind = kind(self.path)
        load: Callable[[Path], Encoder]
        if self.kind == TokenizerKind.HUGGING_FACE:
            load = encoders.HuggingFace
        elif self.kind == TokenizerKind.TIKTOKEN:
            load = encoders.Llama3
        else:
            load = encoders.Mixtral if self.sha256 == MIXTRAL_8X22B.sha256 else encoders.SentencePiece
        try:
            return load(self.path)
        except encoders.UnreadableTokenizerError as error:
            raise TokenizerError(f"{self.path} is not a {self.kind}: {error}") from None

    @property
    def vocab_size(self) -> int:
        return self._encoder.vocab_size

    @property
    def eod(self) -> int:
        """End-of-document token: the end-of-sequence token."""
        return self._encoder.eod

    @property
    def unique_identifiers(self) -> dict[str, Any]:
        """The values that identify the tokenizer in Megatron-Core's index cache."""
        return {"tokenizer": self.sha256}

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type in which Megatron-Core stores the tokens of a vocabulary of this size."""
        import numpy as np

        # DType.optimal_dtype of megatron.core.datasets.indexed_dataset, without importing torch.
        return np.dtype(np.uint16 if self.vocab_size < 65_500 else np.int32)

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = self._encoder.encode([text]).tokens.tolist()
        return tokens

    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        """Return the tokens of all texts, one after the other, and the number of tokens of each; on one core."""
        return self._encoder.encode(texts)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._encoder.decode(tokens)


def kind(path: Path) -> TokenizerKind:
    """Return the kind of a tokenizer file, judged by how it starts; anything unknown counts as a SentencePiece model.

    Raises:
        TokenizerError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}") from None
    if start.lstrip().startswith(b"{"):
        return TokenizerKind.HUGGING_FACE
    return TokenizerKind.TIKTOKEN if _TIKTOKEN_LINE.match(start) else TokenizerKind.SENTENCEPIECE


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file.

    Raises:
        TokenizerError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}") from None
