"""The files that a Hugging Face folder needs to be served besides its weights: a tokenizer and its end tokens.

Files of a Hugging Face tokenizer are copied as they are; SentencePiece models and Llama 3's ranks become a
tokenizer.json. This module imports no torch, and sentencepiece as its only library of tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.benchmarks import BENCHMARKS, MIXTRAL_8X22B, BenchmarkTokenizer, TokenizerKind
from benchmark.decode import MalformedError, from_json, read_regular
from reference_impl.checkpoint import tokenizer_json
from reference_impl.checkpoint.huggingface import POSITIONS
from reference_impl.checkpoint.source import Checkpoint
from reference_impl.encoders import SentencePiece, UnreadableTokenizerError
from reference_impl.tokenizer import TokenizerError, benchmark_tokenizer, kind, sha256

TOKENIZER = "tokenizer.json"
MODEL = "tokenizer.model"
SETTINGS = "tokenizer_config.json"
SYMBOLS = "special_tokens_map.json"
GENERATION = "generation_config.json"

_BESIDE = (MODEL, SETTINGS, SYMBOLS, GENERATION, "added_tokens.json", "chat_template.jinja")
"""Files that are copied together with a tokenizer.json, if they exist."""

_PLACES = (".", "context/nemo_tokenizer")
"""Where a checkpoint keeps its own tokenizer: Hugging Face's folders, NeMo's."""

_LARGEST = 100_000_000
"""Most bytes of a copied file. Llama 3.1's tokenizer.json has 17 million."""

_USUAL = {"bos": ("<s>", "<|begin_of_text|>"), "eos": ("</s>", "<|end_of_text|>")}
"""Symbols that begin and end a text where no settings name any."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A tokenizer as the files of a Hugging Face folder."""

    path: Path
    """Where it comes from."""
    pieces: int
    ends: Mapping[str, int]
    """Ids of the tokens that begin (`bos`) and end (`eos`) a text; a token that the tokenizer lacks is left out."""
    files: Mapping[str, bytes]


def tokenizer_for(checkpoint: Checkpoint, rows: int, given: Path | None = None) -> Served | None:
    """Return the tokenizer for a checkpoint's first `rows` vocabulary rows; None if there is none.

    It is the given one, else the checkpoint's own, else an installed benchmark's. One with a different number of pieces
    is passed over.

    Raises:
        TokenizerError: the given one has a different number of pieces; or it, or the checkpoint's own, cannot be read.
    """
    if given is not None:
        tokenizer = served(given)
        if tokenizer.pieces != rows:
            raise TokenizerError(
                f"{given} has {tokenizer.pieces:,} pieces, but the weights have {rows:,} vocabulary rows"
            )
        return tokenizer
    own = next((file for place in _PLACES if (file := _tokenizer_in(checkpoint.folder / place))), None)
    if own is not None and (tokenizer := served(own)).pieces == rows:
        return tokenizer
    wanted = _benchmarks(rows)
    try:
        return None if wanted is None else served(benchmark_tokenizer(wanted))
    except TokenizerError:
        # No package has it, or that package is not installed.
        return None


def missing(rows: int) -> str:
    """Return the notice to print when `tokenizer_for` finds none."""
    wanted = _benchmarks(rows)
    return (
        f"no tokenizer is written, and nothing serves the model without: {rows:,} vocabulary rows are of "
        f"{'one that is not known' if wanted is None else wanted.about}; name its file with --tokenizer"
    )


def _benchmarks(rows: int) -> BenchmarkTokenizer | None:
    return next((row.tokenizer for row in BENCHMARKS.values() if row.vocabulary == rows), None)


def served(path: Path) -> Served:
    """Return any tokenizer file, or a Hugging Face tokenizer's folder, as the files of a served folder.

    Raises:
        TokenizerError: it cannot be read, or is not a tokenizer.
    """
    if path.is_dir():
        file = _tokenizer_in(path)
        if file is None:
            raise TokenizerError(f"{path} holds neither {TOKENIZER} nor {MODEL}")
        path = file
    tokenizer_kind = kind(path)
    read = {
        TokenizerKind.HUGGING_FACE: _copied,
        TokenizerKind.TIKTOKEN: _of_ranks,
        TokenizerKind.SENTENCEPIECE: _of_sentencepiece,
    }[tokenizer_kind]
    try:
        return read(path)
    except TokenizerError:
        raise
    except (UnreadableTokenizerError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise TokenizerError(f"{path} is not a {tokenizer_kind}: {error or type(error).__name__}") from None


def _tokenizer_in(folder: Path) -> Path | None:
    return next((folder / name for name in (TOKENIZER, MODEL) if (folder / name).is_file()), None)


def _copied(path: Path) -> Served:
    """Return a tokenizer.json together with the files next to it."""
    files = {TOKENIZER: _read(path)}
    if path.name == TOKENIZER:
        files |= {name: _read(path.with_name(name)) for name in _BESIDE if path.with_name(name).is_file()}
    return _served(path, _ids(from_json(files[TOKENIZER])), files)


def _of_ranks(path: Path) -> Served:
    return _made(path, tokenizer_json.of_ranks(path), {})


def _of_sentencepiece(path: Path) -> Served:
    files = {MODEL: _read(path)}
    if sha256(path) == MIXTRAL_8X22B.sha256:
        return _made(path, tokenizer_json.of_sentencepiece(path), files)
    # It may not use byte pairs: transformers converts it as well as it can.
    processor = SentencePiece(path).processor
    return _served(path, {processor.id_to_piece(index): index for index in range(processor.vocab_size())}, files)


def _made(path: Path, document: Mapping[str, Any], files: Mapping[str, bytes]) -> Served:
    return _served(path, _ids(document), {TOKENIZER: json.dumps(document, ensure_ascii=False).encode(), **files})


def _ids(document: Mapping[str, Any]) -> dict[str, int]:
    """Return every token of a tokenizer.json with its id."""
    vocabulary = document["model"]["vocab"]
    # Unigram models list pieces with their scores.
    ids = {piece[0]: index for index, piece in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
    return {**ids, **{token["content"]: int(token["id"]) for token in document.get("added_tokens") or ()}}


def _served(path: Path, ids: Mapping[str, int], files: Mapping[str, bytes]) -> Served:
    """Return the files, adding those that are missing."""
    symbols = dict(_ends(ids, files))
    named = {f"{role}_token": symbol for role, symbol in symbols.items()}
    ends = {role: ids[symbol] for role, symbol in symbols.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast" if TOKENIZER in files else "LlamaTokenizer",
        **named,
        "clean_up_tokenization_spaces": False,
        "model_max_length": POSITIONS,
    }
    generation = {f"{role}_token_id": index for role, index in ends.items()}
    made = {SETTINGS: settings, SYMBOLS: named, GENERATION: generation}
    texts = {name: (json.dumps(values, indent=2) + "\n").encode() for name, values in made.items()}
    return Served(path=path, pieces=len(ids), ends=ends, files={**texts, **files})


def _ends(ids: Mapping[str, int], files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the symbols that begin and end a text: those in the settings, or the usual ones."""
    settings = [from_json(files.get(name, b"{}")) for name in (SETTINGS, SYMBOLS)]
    for role, usual in _USUAL.items():
        stated = (values.get(f"{role}_token") for values in settings)
        # A symbol is either text, or an object with the text and how to match it.
        symbols = (value.get("content") if isinstance(value, dict) else value for value in stated)
        usual_symbol = next((symbol for symbol in (*symbols, *usual) if symbol in ids), None)
        if usual_symbol is not None:
            yield role, usual_symbol


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _LARGEST)
    except MalformedError as error:
        raise TokenizerError(f"{path} is not a tokenizer's file: {error}") from None
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}") from None
