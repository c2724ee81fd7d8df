"""Presents a dry run as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmark.hardware import OUTSIDE_ALLOCATOR
from harness.dryrun.answer import Answer, Broken, RankVerdict, gib


def lines(outcome: RankVerdict | Broken) -> Iterator[str]:
    """Yield the lines for one rank."""
    if isinstance(outcome, Broken):
        yield f"{outcome.config.system}, rank {outcome.rank}, on a null {outcome.gpu.name}"
        yield from (f"  {line}" for line in outcome.trace.splitlines())
        yield f"FAIL  {outcome.error}"
    else:
        yield from _lines(outcome)


def _lines(verdict: RankVerdict) -> Iterator[str]:
    config, gpu, answer = verdict.config, verdict.gpu, verdict.answer
    layout = config.layout
    own = layout.gradient_accumulation_steps
    fewer = "" if answer.microbatches == own else f" of the run's {own}"
    yield (
        f"{config.system}, rank {answer.rank} of {layout.world_size}, stage {answer.stage} of "
        f"{layout.pipeline_model_parallel}, on a null {gpu.name}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in answer.versions.items())
    yield f"  software    {versions}; layers by {answer.layer_spec}"
    yield f"  model       {answer.parameters:,} parameters, {answer.layers} layers"
    yield f"  steps       {len(answer.host)}, of {answer.microbatches}{fewer} microbatches each"
    yield from _memory(verdict)
    yield from _step(answer)
    yield from _flops(verdict)
    yield from _traffic(answer)
    if answer.step.unanswered:
        yield f"  unanswered  {_counts(answer.step.unanswered)}"
    yield f"{'FAIL' if verdict.faults else 'PASS'}  {_conclusion(verdict)}"


def _memory(verdict: RankVerdict) -> Iterator[str]:
    yield "  memory, GiB           after     peak reserved"
    for phase in verdict.answer.phases:
        yield f"    {phase.phase:<14}{gib(phase.allocated):>9}{gib(phase.peak):>9}{gib(phase.reserved):>9}"
    yield "  held at the peak of a step, GiB"
    for holder in verdict.answer.holders:
        yield f"    {holder.bytes / 2**30:>7.2f}  {holder.what}"


def _step(answer: Answer) -> Iterator[str]:
    waits = _counts(answer.step.waits) if answer.step.waits else "none"
    yield f"  a step      {answer.launches:,} operations queued; the host waits {answer.waits} times: {waits}"
    yield f"  host        {answer.host_ms:.0f} ms of one core of this machine per microbatch"
    if answer.graphs:
        replayed = answer.step.calls.get("operations in graphs", 0)
        yield f"  graphs      {answer.graphs} captured in the warm-up; a step replays {replayed:,} operations of them"


def _flops(verdict: RankVerdict) -> Iterator[str]:
    counted = verdict.answer.flops
    yield (
        f"  products    {verdict.flops / 1e12:,.1f} TFLOP, of the model {verdict.model_flops / 1e12:,.1f}; "
        f"made again {counted.get('recomputed', 0) / 1e12:,.1f}; attention {counted.get('attention', 0) / 1e12:,.1f}"
    )


def _traffic(answer: Answer) -> Iterator[str]:
    yield "  collectives of a step, GiB by group"
    for traffic in sorted(answer.step.collectives, key=lambda one: -one.bytes):
        if traffic.bytes >= 2**20:
            yield f"    {traffic.bytes / 2**30:>7.2f}  {traffic.operation}, {traffic.group}, {traffic.calls} calls"


def _conclusion(verdict: RankVerdict) -> str:
    if verdict.faults:
        return "; ".join(verdict.faults)
    return (
        f"fits: reserved {gib(verdict.answer.reserved)} + outside the allocator {gib(OUTSIDE_ALLOCATOR)} = "
        f"{gib(verdict.needed)} of {gib(verdict.gpu.memory)} GiB"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items()))


COLUMNS = (
    "config",
    "GPU",
    "stage",
    "peak GiB",
    "reserved GiB",
    "planned GiB",
    "left GiB",
    "fits",
    "host waits",
    "operations",
    "products TFLOP",
    "against the model",
    "made again",
    "attention",
    "collectives GiB",
    "host ms",
)


def table(rows: Sequence[tuple[RankVerdict, float]]) -> Iterator[str]:
    """Yield a Markdown table, a row for each rank, with the planner's bytes for its stage; counts a microbatch."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|{'|'.join(['---'] * 3 + ['---:'] * (len(COLUMNS) - 3))}|"
    for verdict, planned in rows:
        answer = verdict.answer
        each = answer.microbatches
        moved = sum(traffic.bytes for traffic in answer.step.collectives)
        cells = (
            verdict.config.system,
            verdict.gpu.name,
            str(answer.stage),
            f"{answer.peak / 2**30:.2f}",
            f"{answer.reserved / 2**30:.2f}",
            f"{planned / 2**30:.2f} ({100 * (planned / answer.peak - 1):+.1f} %)",
            f"{(verdict.gpu.memory - verdict.needed) / 2**30:.1f}",
            "yes" if verdict.fits else "no",
            str(answer.waits),
            str(answer.launches // each),
            f"{verdict.flops / each / 1e12:.1f}",
            f"{100 * (verdict.flops / verdict.model_flops - 1):+.3f} %",
            f"{answer.flops.get('recomputed', 0) / each / 1e12:.1f}",
            f"{answer.flops.get('attention', 0) / each / 1e12:.1f}",
            f"{moved / each / 2**30:.2f}",
            f"{answer.host_ms:.0f}",
        )
        yield f"| {' | '.join(cells)} |"
