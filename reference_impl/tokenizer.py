"""The benchmark's tokenizer: a SentencePiece model of 32,000 pieces."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Mixtral's `tokenizer.model.v1` (493,443 bytes, the size that MLCommons publishes), as the mistral-common package
# ships it.
BENCHMARK_TOKENIZER_SHA256 = "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"


class TokenizerError(ValueError):
    """A tokenizer file that is missing, unreadable, or not the one expected."""


def benchmark_tokenizer() -> Path:
    """The tokenizer file in the installed mistral-common, found without importing that package.

    Raises:
        TokenizerError: it is not installed, or its content is another.
    """
    spec = find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise TokenizerError(
            "mistral-common is not installed; setup.sh installs it, or set TOKENIZER to a SentencePiece model"
        )
    path = Path(spec.origin).parent / "data" / "tokenizer.model.v1"
    digest = sha256(path)
    if digest != BENCHMARK_TOKENIZER_SHA256:
        raise TokenizerError(f"{path}: sha256 is {digest}, expected {BENCHMARK_TOKENIZER_SHA256}")
    return path


class Tokenizer:
    """A SentencePiece model, with the few names that Megatron-Core's datasets ask of a tokenizer."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self.path = path
        self.sha256 = sha256(path)
        self._processor = SentencePieceProcessor()
        try:
            self._processor.Load(str(path))
        except (OSError, RuntimeError) as error:
            raise TokenizerError(f"{path} is no SentencePiece model: {str(error).strip()}") from None

    @property
    def vocab_size(self) -> int:
        return int(self._processor.vocab_size())

    @property
    def eod(self) -> int:
        """End of document: the model's end-of-sequence piece."""
        return int(self._processor.eos_id())

    @property
    def unique_identifiers(self) -> dict[str, Any]:
        """What Megatron-Core keys its index cache by."""
        return {"tokenizer": self.sha256}

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        TokenizerError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}") from None
