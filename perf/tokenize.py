"""Measures the encoder that `prepare` uses, against SentencePiece, Hugging Face's tokenizers and datatrove.

First every document, cut into shorter ones, is encoded by ours and by an oracle, and the ids are compared. The oracle
is SentencePiece itself, or Hugging Face's if a document spells a control symbol. Then two tables show million tokens
per core-second, on one core, in turns, with a fresh encoder each round: encoding alone, and the whole way from
`.json.gz` to `.bin` and `.idx`.

There are two corpora that every checkout has: the State of the Union addresses, and the environment's Python sources,
whose words repeat less than C4's. Peers that are not installed are left out.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from reference_impl.data.prepare import built_in
from reference_impl.data.prepare.dataset import DatasetPlan, PlannedPair, prepare
from reference_impl.data.prepare.documents import C4Shard
from reference_impl.tokenizer import Tokenizer, benchmark_tokenizer

DOCUMENT_CHARACTERS = 2000
"""About the length of a document of C4."""
PROOF_CHARACTERS = 500
"""Shorter documents, for more starts and ends of texts to compare."""

CONTROL = "<unk>", "<s>", "</s>"


def addresses() -> list[str]:
    return [block for text in built_in.addresses() for block in _blocks(text)]


def sources(megabytes: int) -> list[str]:
    """Return the Python files of the environment, in order of path."""
    root = Path(np.__file__).parent.parent
    texts = (path.read_text(encoding="utf-8", errors="ignore") for path in sorted(root.rglob("*.py")))
    blocks = (block for text in texts for block in _blocks(text))
    return list(islice(blocks, megabytes * 1_000_000 // DOCUMENT_CHARACTERS))


def _blocks(text: str, characters: int = DOCUMENT_CHARACTERS) -> Iterator[str]:
    for start in range(0, len(text), characters):
        yield text[start : start + characters]


def sentencepiece(path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(path))


def hugging_face(path: Path) -> Any:
    """Return Hugging Face's form of the benchmark's SentencePiece model, as transformers converts it.

    Two pieces merge if their union is a piece; the union with the best score comes first.
    """
    from tokenizers import AddedToken, Tokenizer, models, normalizers

    processor = sentencepiece(path)
    pieces = [processor.id_to_piece(index) for index in range(processor.vocab_size())]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [
        (processor.get_score(index), cut, len(piece) - cut, piece)
        for index, piece in enumerate(pieces)
        if not processor.is_byte(index) and not processor.is_control(index) and not processor.is_unknown(index)
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    pairs = [(piece[:cut], piece[cut:]) for _, cut, _, piece in merges]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in CONTROL])
    return tokenizer


def differing(texts: list[str], path: Path) -> int:
    """Count the documents whose ids differ from the oracle's."""
    processor, peer, ours = sentencepiece(path), hugging_face(path), Tokenizer(path)
    count = 0
    for start in range(0, len(texts), 1000):
        batch = texts[start : start + 1000]
        encoded = ours.encode_batch(batch)
        split = np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1])
        for text, tokens in zip(batch, split, strict=True):
            spelt = any(piece in text for piece in CONTROL)
            expected = peer.encode(text, add_special_tokens=False).ids if spelt else processor.encode(text)
            count += tokens.tolist() != expected
    return count


def encoders(path: Path) -> dict[str, Callable[[], Callable[[list[str]], object]]]:
    """Return name -> function that makes a fresh encoder of a batch of texts."""

    def of_sentencepiece() -> Callable[[list[str]], object]:
        processor = sentencepiece(path)
        return lambda texts: [processor.encode(text) for text in texts]

    def of_hugging_face() -> Callable[[list[str]], object]:
        tokenizer = hugging_face(path)
        return lambda texts: tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    by_name: dict[str, Callable[[], Callable[[list[str]], object]]] = {
        "ours": lambda: Tokenizer(path).encode_batch,
        "sentencepiece": of_sentencepiece,
    }
    return {**by_name, "tokenizers": of_hugging_face} if find_spec("tokenizers") else by_name


def pipelines(path: Path, shard: Path, folder: Path) -> dict[str, Callable[[], Callable[[], object]]]:
    """Return name -> function that prepares the making of a shard's dataset, in a folder of its own."""
    by_name: dict[str, Callable[[], Callable[[], object]]] = {
        "ours: prepare": lambda: partial(_ours, path, shard, folder / "ours"),
        "sentencepiece, IndexedDatasetBuilder": lambda: partial(_megatron, path, shard, folder / "megatron"),
    }
    if find_spec("datatrove"):
        file = folder / "tokenizer.json"
        hugging_face(path).save(str(file))
        by_name["datatrove"] = lambda: partial(_datatrove, file, shard, folder / "datatrove")
    return by_name


def _ours(tokenizer: Path, shard: Path, folder: Path) -> None:
    outputs = (PlannedPair(prefix="validation", shards=(C4Shard(shard),)),)
    prepare(folder, DatasetPlan(corpus="", outputs=outputs, tokenizer=tokenizer, append_eod=False))


def _megatron(tokenizer: Path, shard: Path, folder: Path) -> None:
    """Run the loop of Megatron's and NeMo's preprocessing scripts."""
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    folder.mkdir()
    processor = sentencepiece(tokenizer)
    builder = IndexedDatasetBuilder(str(folder / "a.bin"), dtype=DType.optimal_dtype(processor.vocab_size()))
    with gzip.open(shard) as file:
        for line in file:
            tokens = processor.encode(json.loads(line)["text"])
            builder.add_document(torch.IntTensor(tokens), [len(tokens)])
    builder.finalize(str(folder / "a.idx"))


def _datatrove(tokenizer: Path, shard: Path, folder: Path) -> None:
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import MegatronDocumentTokenizer

    reader = JsonlReader(str(shard.parent), glob_pattern=shard.name)
    writer = MegatronDocumentTokenizer(str(folder), tokenizer_name_or_path=str(tokenizer), eos_token=None)
    writer.run(reader.run(), rank=0, world_size=1)


def core_seconds(work: Mapping[str, Callable[[], Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Return the median processor time of each piece of work, run in turns, without the time to set it up."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, make in work.items():
            call = make()
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: median(values) for name, values in seconds.items()}


@click.command()
@click.option("--rounds", default=3, show_default=True, help="0 to compare ids alone.")
@click.option("--megabytes", default=60, show_default=True, help="Of Python sources, at most.")
@click.option("--prove/--no-prove", default=True, show_default=True, help="Compare all ids first.")
def main(rounds: int, megabytes: int, prove: bool) -> None:
    """Compare, then measure, and print tables."""
    # One core each: work is compared, not the number of threads.
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
    path = benchmark_tokenizer()
    for title, texts in {"State of the Union addresses": addresses(), "Python sources": sources(megabytes)}.items():
        tokens = len(Tokenizer(path).encode_batch(texts).tokens)
        print(f"\n{title}: {len(texts):,} documents, {tokens / 1e6:.2f} million tokens")
        if prove:
            pieces = [piece for text in texts for piece in _blocks(text, PROOF_CHARACTERS)]
            print(f"of {len(pieces):,} pieces of them, ids that differ from the oracle's: {differing(pieces, path)}")
        if not rounds:
            continue
        work = {name: partial(_encode, make, texts) for name, make in encoders(path).items()}
        _print("encoding", core_seconds(work, rounds), tokens)
        with tempfile.TemporaryDirectory() as folder:
            shard = Path(folder) / "shard.json.gz"
            with gzip.open(shard, "wt", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
            made = pipelines(path, shard, Path(folder))
            whole = {name: partial(_anew, make, Path(folder)) for name, make in made.items()}
            _print("json.gz to bin and idx", core_seconds(whole, rounds), tokens)


def _encode(make: Callable[[], Callable[[list[str]], object]], texts: list[str]) -> Callable[[], object]:
    encode = make()
    return lambda: [encode(texts[start : start + 512]) for start in range(0, len(texts), 512)]


def _anew(make: Callable[[], Callable[[], object]], folder: Path) -> Callable[[], object]:
    for made in folder.iterdir():
        if made.is_dir():
            shutil.rmtree(made)
    return make()


def _print(what: str, seconds: dict[str, float], tokens: int) -> None:
    ours = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"{what:24} {name:38} {tokens / value / 1e6:7.2f} Mtok/core-s   ours is {value / ours:5.2f} x")


if __name__ == "__main__":
    main()
