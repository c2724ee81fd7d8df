"""Tokenizers: every kind of file opens, and the fast encoder's ids are the plain one's."""

from __future__ import annotations

import base64
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.tokenize import CONTROL, hugging_face
from reference_impl import encoders
from reference_impl.data.prepare import built_in
from reference_impl.encoders import Mixtral, SentencePiece
from reference_impl.tokenizer import Tokenizer, TokenizerError, benchmark_tokenizer

# What words are cut at, what is rare, and what looks like something else.
AWKWARD = (
    *(" ", "  ", "   ", "▁", "▁▁", "\n", "\t", "\r", "\x00", "\u3000", "\u200b", "\ufeff", "a", "th", "The", "'s", '"'),
    *("é", "e\u0301", "中", "🦙", "\U0010ffff", "<0x0A>", "<", ">", "<s", "/s>", "1", "2026", "...", "http://", "});"),
)
TEXTS = st.lists(st.sampled_from(AWKWARD) | st.text(max_size=3), max_size=30).map("".join)


@pytest.fixture(scope="module")
def plain() -> SentencePiece:
    return SentencePiece(benchmark_tokenizer())


@pytest.fixture(scope="module")
def fast() -> Mixtral:
    """The benchmark's encoder, with gigatoken."""
    pytest.importorskip("gigatoken")
    return Mixtral(benchmark_tokenizer())


@settings(max_examples=500)
@given(texts=st.lists(TEXTS, max_size=5))
def test_fast_ids_are_sentencepieces(texts: list[str], fast: Mixtral, plain: SentencePiece) -> None:
    """They are the same for any text that spells no control symbol."""
    texts = [text for text in texts if not any(symbol in text for symbol in CONTROL)]
    found, expected = fast.encode(texts), plain.encode(texts)

    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.lengths.tolist() == expected.lengths.tolist()


@pytest.mark.slow
def test_every_document_of_the_corpus_has_sentencepieces_ids(fast: Mixtral, plain: SentencePiece) -> None:
    """They are the same for 2.6 million tokens; perf/tokenize.py compares more."""
    assert np.array_equal(fast.encode(built_in.addresses()).tokens, plain.encode(built_in.addresses()).tokens)


@settings(max_examples=300)
@given(parts=st.lists(TEXTS | st.sampled_from(CONTROL), max_size=6), installed=st.booleans())
def test_a_spelt_control_symbol_is_hugging_faces(parts: list[str], installed: bool, peer: Any, both: Any) -> None:
    """It is read as by the tokenizer that made the published data, with and without gigatoken."""
    text = "".join(parts)
    assert both[installed].encode([text]).tokens.tolist() == peer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def peer() -> Any:
    return hugging_face(benchmark_tokenizer())


@pytest.fixture(scope="module")
def both(fast: Mixtral) -> dict[bool, Mixtral]:
    without = Mixtral(benchmark_tokenizer())
    with mock.patch.object(encoders, "find_spec", return_value=None):
        without.encode([""])
    return {True: fast, False: without}


def test_forgetting_changes_no_ids(plain: SentencePiece, monkeypatch: pytest.MonkeyPatch) -> None:
    """After FORGET_AFTER tokens the fast encoder starts anew and gives the same ids."""
    pytest.importorskip("gigatoken")
    monkeypatch.setattr(Mixtral, "FORGET_AFTER", 3)
    fast, text = Mixtral(benchmark_tokenizer()), "Four score and seven years"
    found = [(fast.encode([text]).tokens.tolist(), fast._gigatoken) for _ in range(2)]

    assert [tokens for tokens, _ in found] == [plain.encode([text]).tokens.tolist()] * 2
    assert found[0][1] is not found[1][1]


def test_a_batch_keeps_texts_apart(tokenizer: Tokenizer) -> None:
    """The lengths say which tokens belong to which text, including empty ones."""
    texts = ["one text", "", "another", "</s>"]
    encoded = tokenizer.encode_batch(texts)
    ends = np.cumsum(encoded.lengths)

    assert [encoded.tokens[a:b].tolist() for a, b in pairwise([0, *ends])] == [tokenizer.encode(text) for text in texts]


def test_decoding_gives_the_text_back(tokenizer: Tokenizer) -> None:
    """That holds for any text without control symbols."""
    assert tokenizer.decode(tokenizer.encode("Llama 🦙\nand  more")) == "Llama 🦙\nand  more"


def test_a_hugging_face_file_opens(tmp_path: Path, peer: Any, tokenizer: Tokenizer) -> None:
    """tokenizer.json of the benchmark's model gives the same ids, end of document and type."""
    path = tmp_path / "tokenizer.json"
    peer.save(str(path))
    opened = Tokenizer(path)

    assert (opened.vocab_size, opened.eod, opened.dtype) == (tokenizer.vocab_size, tokenizer.eod, np.dtype(np.uint16))
    assert opened.encode("Hello world") == tokenizer.encode("Hello world")
    assert opened.sha256 != tokenizer.sha256


def test_llama_3s_ranks_open(tmp_path: Path) -> None:
    """256 special tokens follow the ranks; digits are cut in threes; a large vocabulary is int32."""
    pytest.importorskip("tiktoken")
    ranks = [bytes([value]) for value in range(256)] + [b"12", b"123", b"34", b"1234", b"lo", b" lo"]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"".join(base64.b64encode(rank) + b" %d\n" % index for index, rank in enumerate(ranks)))
    opened = Tokenizer(path)

    assert (opened.vocab_size, opened.eod) == (len(ranks) + 256, len(ranks) + 1)
    assert opened.encode("1234 lo") == [257, ord("4"), 261]
    assert opened.encode("<|end_of_text|>") == list(b"<|end_of_text|>")
    assert opened.decode([257, opened.eod, 260]) == "123lo"
    with mock.patch.object(opened, "_encoder", SimpleNamespace(vocab_size=128_256)):
        assert opened.dtype == np.int32


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"not a model", "SentencePiece model"),
        (b'{"model": 1}', "Hugging Face tokenizer"),
        (b"", "SentencePiece model"),
    ],
)
def test_a_file_of_no_kind_is_refused(tmp_path: Path, content: bytes, kind: str) -> None:
    """The error names the file and what it was taken for."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)

    with pytest.raises(TokenizerError, match=rf"tokenizer\.model is not a {kind}"):
        Tokenizer(path)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """A Hugging Face file needs the tokenizers package, which the error names."""
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")

    with (
        mock.patch.dict("sys.modules", {"tokenizers": None}),
        pytest.raises(TokenizerError, match="needs the tokenizers"),
    ):
        Tokenizer(path)
