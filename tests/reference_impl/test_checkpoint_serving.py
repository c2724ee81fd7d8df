"""An export can be served: transformers loads all of it offline, and reads texts as training did."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from benchmark.benchmarks import LLAMA31_TINY
from harness.verbs.checkpoint import checkpoint as main
from reference_impl.checkpoint.serving import GENERATION, SETTINGS, TOKENIZER, served, tokenizer_for
from reference_impl.checkpoint.source import open_checkpoint
from reference_impl.checkpoint.tokenizer_json import LLAMA_31_SYMBOLS
from reference_impl.tokenizer import Tokenizer, TokenizerError, benchmark_tokenizer
from tests.reference_impl.checkpoints import TINY, random_weights, write_huggingface, write_nemo
from tests.reference_impl.test_data_tokenizers import AWKWARD

TEXTS = ("", "Hello world", " a", "a  b\n", "one</s>two <unk> <s> c", "1234 lo hello", *AWKWARD, "".join(AWKWARD))
ROWS = 300
"""Words of the tokenizer that `words` writes."""


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def words(folder: Path, number: int = ROWS, **settings: Any) -> Path:
    """A Hugging Face tokenizer of so many words; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {"type": "WordLevel", "vocab": {f"<{each}>": each for each in range(number)}, "unk_token": "<0>"}
    (folder / TOKENIZER).write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    if settings:
        (folder / SETTINGS).write_text(json.dumps(settings))
    return folder / TOKENIZER


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the benchmark's vocabulary, exported as it is typed."""
    folder = tmp_path_factory.mktemp("served")
    source = write_nemo(folder / "nemo", TINY, random_weights(TINY, LLAMA31_TINY.vocabulary, torch.bfloat16))
    status, said, _ = call("export", source, folder / "exported")
    assert (status, f"tokenizer: {benchmark_tokenizer()}\n" in said) == (0, True)
    return folder / "exported"


def test_the_exported_tokenizer_gives_the_tokens_of_training(exported: Path, tokenizer: Tokenizer) -> None:
    """For any text it gives the same tokens, adds none, and decodes to the text again."""
    theirs = AutoTokenizer.from_pretrained(exported, local_files_only=True)
    for text in TEXTS:
        assert theirs.encode(text) == tokenizer.encode(text)
    assert theirs.decode(theirs.encode("Hello 🦙\nworld")) == "Hello 🦙\nworld"
    assert (theirs.bos_token, theirs.eos_token, len(theirs)) == ("<s>", "</s>", 32_000)


def test_the_exported_model_generates(exported: Path) -> None:
    """The settings name the tokens that begin and end a text, and a prompt is continued."""
    for settings in (AutoConfig, GenerationConfig):
        loaded = settings.from_pretrained(exported, local_files_only=True)
        assert (loaded.bos_token_id, loaded.eos_token_id) == (1, 2)
    model = AutoModelForCausalLM.from_pretrained(exported, local_files_only=True)
    tokens = AutoTokenizer.from_pretrained(exported, local_files_only=True)(
        "Hello there", return_tensors="pt"
    ).input_ids
    continued = model.generate(tokens, max_new_tokens=2, min_new_tokens=2)
    assert continued[0, :-2].tolist() == tokens[0].tolist()


def test_verify_knows_the_files_beside_the_weights(exported: Path) -> None:
    """A changed tokenizer is found."""
    assert call("verify", exported)[0] == 0
    before = (exported / TOKENIZER).read_bytes()
    (exported / TOKENIZER).write_bytes(before.replace(b"Hello", b"hallo"))
    status, _, said = call("verify", exported)
    (exported / TOKENIZER).write_bytes(before)
    assert (status, f"{TOKENIZER} has sha256" in said) == (1, True)


def test_llama_3s_ranks_become_a_tokenizer_json(tmp_path: Path) -> None:
    """The tokens are tiktoken's, and all 256 symbols of Llama 3.1 have their ids."""
    pytest.importorskip("tiktoken")
    tokens = [*(bytes([value]) for value in range(256)), *b"12 123 34 1234 lo el hel ell hello \r\n".split(b" ")]
    path = tmp_path / "ranks.model"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    made, ours = served(path), Tokenizer(path)
    for name, content in made.files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)

    for text in TEXTS:
        assert theirs.encode(text) == ours.encode(text)
    assert made.pieces == ours.vocab_size
    assert (made.ends["eos"], theirs.eos_token_id) == (ours.eod, ours.eod)
    assert theirs.encode("<|eot_id|>") == [ours.eod - 1 + LLAMA_31_SYMBOLS.index("<|eot_id|>")]
    assert len(set(LLAMA_31_SYMBOLS)) == 256


@pytest.mark.parametrize("place", ["beside Hugging Face's weights", "in a NeMo checkpoint", "given"])
def test_a_tokenizer_of_hugging_face_is_copied(place: str, tmp_path: Path) -> None:
    """It is copied byte for byte with its settings, which name the symbols that end a text."""
    weights = random_weights(TINY, ROWS)
    if place == "beside Hugging Face's weights":
        source, folder = write_huggingface(tmp_path / "source", TINY, weights), tmp_path / "source"
    else:
        source = write_nemo(tmp_path / "source", TINY, weights)
        folder = tmp_path / "given" if place == "given" else source / "context" / "nemo_tokenizer"
    file = words(folder, eos_token={"content": "<7>"}, bos_token="<5>")
    given: list[str | Path] = ["--tokenizer", file] if place == "given" else []
    assert call("export", source, tmp_path / "out", *given)[0] == 0

    for name in (TOKENIZER, SETTINGS):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((tmp_path / "out" / GENERATION).read_text()) == {"bos_token_id": 5, "eos_token_id": 7}


def test_without_a_tokenizer_one_line_says_how_to_give_it(tmp_path: Path) -> None:
    """Weights are still exported, and no setting claims Llama 2's symbols."""
    source = write_huggingface(tmp_path / "source", TINY, random_weights(TINY, ROWS))
    words(tmp_path / "source", ROWS + 1)
    status, _, said = call("export", source, tmp_path / "out")

    assert status == 0
    assert said.startswith(
        "warning: no tokenizer is written, and nothing serves the model without: 300 vocabulary rows are of one that "
        "is not known; name its file with --tokenizer\n"
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] is None
    assert not (tmp_path / "out" / TOKENIZER).exists()


def test_a_tokenizer_of_another_vocabulary_is_refused_before_the_export(tmp_path: Path) -> None:
    """The error has both numbers."""
    source = write_nemo(tmp_path / "source", TINY, random_weights(TINY, ROWS))
    status, _, said = call("export", source, tmp_path / "out", "--tokenizer", benchmark_tokenizer())

    assert (status, "has 32,000 pieces, but the weights have 300 vocabulary rows" in said) == (2, True)
    assert not (tmp_path / "out").exists()


def test_kept_rows_bring_the_benchmarks_tokenizer(tmp_path: Path) -> None:
    """If only the benchmark's rows are kept, the benchmark's tokenizer is exported, not the source's."""
    source = write_nemo(tmp_path / "source", TINY, random_weights(TINY, 32_100))
    words(source / "context" / "nemo_tokenizer", 32_100)
    found = tokenizer_for(open_checkpoint(source), 32_000)
    assert found is not None
    assert found.path == benchmark_tokenizer()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TOKENIZER, b"{", r"tokenizer\.json is not a Hugging Face tokenizer: Expecting property name"),
        (TOKENIZER, b"{}", r"tokenizer\.json is not a Hugging Face tokenizer: 'model'"),
        (TOKENIZER, b'{"model": {"vocab": 7}}', r"tokenizer\.json is not a Hugging Face tokenizer: 'int' object"),
        (
            TOKENIZER,
            b'{"model": ' + b"[" * 100_000,
            r"tokenizer\.json is not a Hugging Face tokenizer: arrays and objects are nested more than 64",
        ),
        ("tokenizer.model", b"no model", r"tokenizer\.model is not a SentencePiece model: "),
        ("tokenizer.model", b"YQ== 0\nYg= 1\n", r"tokenizer\.model is not a list of tiktoken ranks: "),
        ("thesis.txt", b"", r"holds neither tokenizer\.json nor tokenizer\.model"),
    ],
)
def test_what_is_no_tokenizer_is_one_clear_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """The error names the file, what it was taken for, and what is wrong."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        served(tmp_path)


def test_a_model_of_unknown_kind_is_left_to_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SentencePiece model that may not use byte pairs is copied without a tokenizer.json, which might be wrong."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(benchmark_tokenizer().read_bytes())
    monkeypatch.setattr("reference_impl.checkpoint.serving.sha256", lambda _path: "another")
    found = served(path)

    assert found.files["tokenizer.model"] == path.read_bytes()
    assert TOKENIZER not in found.files
    assert (found.pieces, found.ends) == (32_000, {"bos": 1, "eos": 2})
    assert json.loads(found.files[SETTINGS])["tokenizer_class"] == "LlamaTokenizer"
