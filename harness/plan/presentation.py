"""Plans and searches as text for a terminal, and as values for a program. Nothing here computes or prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.hardware import OUTSIDE_ALLOCATOR
from benchmark.plurals import counted
from harness.plan import memory
from harness.plan.calibration import Calibration
from harness.plan.layouts import name
from harness.plan.planner import Plan, Remedy
from harness.plan.scaling import Instead
from harness.plan.search import Candidate, SearchResult
from harness.plan.step_time import KINDS
from harness.plan.time_to_target import LONGEST_INIT_MINUTES

WIDTH = 48
"""Characters of a full bar."""

_LETTERS = dict(zip(memory.PARTS, "WGOAULB-.", strict=True))


def text(plan: Plan, calibration: Calibration) -> str:
    """Return a plan as text."""
    return "\n".join(
        [_title(plan), "", *_memory(plan), "", *_step(plan), "", *_target(plan), "", *_basis(plan, calibration)]
    )


def _title(plan: Plan) -> str:
    job = plan.job
    interleaved = f" (VP {job.chunks})" if job.chunks > 1 else ""
    layout = f"TP {job.tensor} x PP {job.pipeline}{interleaved} x CP {job.context} x DP {job.data}"
    batch = f"{job.microbatches} microbatches of {job.micro_batch}, global batch size {job.global_batch_size}"
    return f"{plan.config.system}: {job.gpus} {job.gpu.name}, {job.precision}, {layout}, {batch}"


def _memory(plan: Plan) -> Iterable[str]:
    capacity, worst = plan.job.gpu.memory, plan.worst
    yield f"Memory of a GPU by pipeline stage, GiB of {_gib(capacity)}"
    yield "  " + ", ".join(f"{letter} {part}" for part, letter in _LETTERS.items())
    largest = max(capacity, worst.total)
    for stage in plan.stages:
        bar = _stacked([(_LETTERS[part], size / largest) for part, size in stage.parts.items()])
        detail = f"{stage.layers} layers, {stage.layer_activations} layers' activations"
        yield f"  {stage.stage:2} |{bar:{WIDTH}}| {_gib(stage.total):>6}  {detail}"
    if plan.config.kernels.captures:
        yield "The pools of CUDA graphs are not counted, and may take tens of GiB. To count them on the null device:"
        yield f"  llama31 dryrun CONFIG --microbatches {plan.job.microbatches}"
    room = capacity - worst.total
    needs = (
        f"stage {worst.stage} allocates {_gib(worst.allocated)} GiB, reserves at most {_gib(worst.reserved)}, "
        f"and {_gib(OUTSIDE_ALLOCATOR)} lie outside the allocator"
    )
    if plan.fits:
        yield f"Fits: {needs}, which leaves {_gib(room)}."
        return
    yield f"Does not fit: {needs}, {_gib(-room)} more than there is. Changes that would make it fit:"
    yield from (
        f"  {_change(remedy)}: {_gib(remedy.total)} GiB, {remedy.step:.2f} s a step" for remedy in plan.remedies
    )
    if not plan.remedies:
        yield "  No single change is enough; search other layouts (--search)."


def _change(remedy: Remedy) -> str:
    return " ".join(f"{name}={value}" for name, value in remedy.change.items())


def _step(plan: Plan) -> Iterable[str]:
    step, spread = plan.pace.step, plan.pace.spread
    tflops = f"{plan.flops / 1e12:,.0f} model TFLOP/s a GPU, attention counted whole"
    yield f"Step {step:.2f} s, give or take {spread:.0%}; {tflops}"
    slow = plan.without_graph
    if slow is not None:
        first, last = (outcome.minutes for outcome in (slow.outcomes[0], slow.outcomes[-1]))
        yield "That is with a CUDA graph of the whole iteration, as in published nvfp4 runs; here the graph is off."
        yield (
            f"Without the graph: {slow.pace.step:.2f} s a step, {slow.gain} times as long, as NVIDIA has published for "
            f"{plan.job.gpu.name}; {first:.1f} to {last:.1f} minutes to the target."
        )
    for part, seconds in plan.parts.items():
        if seconds:
            bar = "#" * round(WIDTH * seconds / step)
            yield f"  {part:21} {seconds:8.3f} s {seconds / step:6.1%}  {bar}"


def _target(plan: Plan) -> Iterable[str]:
    rules = plan.config.rules
    yield f"To log perplexity {rules.target_log_perplexity} ({rules.benchmark} {rules.ruleset}), run_start to run_stop"
    yield "   samples   steps  evaluations   minutes   margin to RCP   factor   GPU-hours"
    for outcome in plan.outcomes:
        margin = "-" if outcome.margin is None else f"{outcome.margin:+,.0f}"
        hours = plan.job.gpus * outcome.minutes / 60
        yield (
            f"{outcome.samples:10,} {outcome.steps:7} {outcome.evaluations:12} {outcome.minutes:9.1f} {margin:>15} "
            f"{outcome.factor:8.3f} {hours:11,.0f}"
        )
    runs = plan.config.job.experiments
    slow = plan.without_graph
    slowest = plan.outcomes[-1] if slow is None else slow.outcomes[-1]
    graph = "" if slow is None else " without a graph"
    hours = runs * plan.job.gpus * slowest.minutes / 60
    yield (
        f"Ask for WALLTIME={plan.walltime}: {counted(runs, 'run')} at the slowest outcome and step{graph}, "
        f"with {LONGEST_INIT_MINUTES:.0f} minutes of start-up each; {hours:,.0f} GPU-hours of training."
    )


def _basis(plan: Plan, calibration: Calibration) -> Iterable[str]:
    job = plan.job
    what = f"{job.gpu.name} in {job.precision} training {job.size.name}"
    if plan.measured:
        steps = counted(plan.measured, "measured step")
        yield f"Calibrated {calibration.made} on {steps} of {what}, software of {job.release} ({job.stack})."
        if calibration.has_fp8_attention(job):
            yield "These steps have attention in fp8, which this trainer lacks; nobody has published its gain."
    else:
        yield f"UNCALIBRATED: no step of {what} was measured; it may take {plan.pace.spread:.0%} more or less."
    if not job.quantised_weights and job.precision != "bf16":
        yield "Weights are kept in bf16 in addition to their quantised copies, since FP8_PARAM_GATHER is off."


def _stacked(parts: Sequence[tuple[str, float]]) -> str:
    """Return a bar of letters; rounding the running sum keeps its length right."""
    drawn, filled = "", 0.0
    for letter, share in parts:
        filled += share
        drawn += letter * (round(WIDTH * filled) - len(drawn))
    return drawn


def _gib(size: float) -> str:
    return f"{size / memory.GIB:.1f}"


# A search.


def table(result: SearchResult, top: int) -> str:
    """Return the fastest layouts of a search, and why other layouts are not among them."""
    title = f"{result.gpus} {result.gpu.name} in {result.precision}: the fastest layouts to the target {_off(result)}"
    refused = [f"{each.layouts:,} layouts: {each.reason}, e.g. {each.example}" for each in result.refusals]
    listed = result.candidates[:top]
    if not listed:
        return "\n".join([title, "No layout fits.", *refused])
    header = f"    {_COLUMNS} = " + " + ".join(f"{kind:>9}" for kind in KINDS)
    rows = [_candidate(rank, candidate) for rank, candidate in enumerate(listed, start=1)]
    note = [
        "One row for each (TP, PP, CP), at its best VP, MBS and MINIBS; minutes to the reference's mean and half an",
        "interval. The columns after them say why a row is better, without opening data: compute shows how stages",
        "share work, transfers what TP, CP and PP do not hide, bubble the wait in the pipeline, once each step's end.",
    ]
    note += _graph(result)
    close = sum(each.minutes <= listed[0].minutes * (1 + result.spread) for each in listed)
    if close > 1:
        note.append(f"Rows 1 to {close} differ by less than a step's error: measure before choosing among them.")
    return "\n".join([title, header, *rows, *note, *refused])


_COLUMNS = "TP  PP  VP  CP    DP  MBS  MINIBS    GBS    step s     GiB   GPU-hours   minutes"


def _off(result: SearchResult) -> str:
    basis = "" if result.measured else "UNCALIBRATED: never measured; "
    return f"({basis}a step may be {result.spread:.0%} off)"


def _graph(result: SearchResult) -> list[str]:
    if result.graph_gain is None:
        return []
    return [
        "Steps are those with a CUDA graph of the whole iteration, as in published nvfp4 runs; without "
        f"FULL_CUDA_GRAPH=True a step takes {result.graph_gain} times as long."
    ]


def _candidate(rank: int, candidate: Candidate) -> str:
    why = "   ".join(f"{minutes:9.2f}" for minutes in candidate.kinds.values())
    return f"{rank:2}. {_layout(candidate)}   {why}"


def _layout(candidate: Candidate) -> str:
    """Return a layout's cells under _COLUMNS."""
    job = candidate.job
    cut = f"{job.tensor:2}  {job.pipeline:2}  {job.chunks:2}  {job.context:2}  {job.data:4}"
    batch = f"{job.micro_batch:3}  {candidate.config.layout.minibatch:6}  {job.global_batch_size:5}"
    hours = f"{job.gpus * candidate.minutes / 60:10,.0f}"
    cost = f"{candidate.step:8.3f}  {_gib(candidate.memory):>6}  {hours}  {candidate.minutes:8.1f}"
    return f"{cut}  {batch}  {cost}"


def instead_lines(others: Sequence[Instead]) -> list[str]:
    """Return the lines on what would fit, for a search in which nothing does."""
    if not others:
        return []
    where = " (variables go into a config: plan FILE --search)" if any("=" in other.what for other in others) else ""
    return [f"What would fit{where}:", *(f"  {_instead(other)}" for other in others)]


def _instead(other: Instead) -> str:
    best = other.result.candidates[0]
    return f"{other.what}, {best.minutes:,.0f} minutes at {_gib(best.memory)} GiB"


def scaling_table(results: Sequence[SearchResult], others: Mapping[int, Sequence[Instead]]) -> str:
    """Return the fastest layout for each number of GPUs, the smallest number first."""
    first = results[0]
    title = f"{first.gpu.name} in {first.precision}: the fastest layout to the target {_off(first)}"
    rows = []
    for each, efficiency in zip(results, efficiencies(results), strict=True):
        if efficiency is None:
            would = "; ".join(map(_instead, others[each.gpus])) or "nothing, not even with other settings"
            rows.append(f"{each.gpus:7}   no layout fits; what would: {would}")
        else:
            rows.append(f"{each.gpus:7}   {_layout(each.candidates[0])}   {efficiency:9.1%}")
    note = [
        "Minutes to the reference's mean and half an interval. Efficiency: GPU-hours of the first row over those of",
        "each row. It falls as larger batches need more samples and smaller minibatches wait longer in the pipeline.",
    ]
    return "\n".join([title, f"   GPUs   {_COLUMNS}  efficiency", *rows, *note, *_graph(first)])


def efficiencies(results: Sequence[SearchResult]) -> list[float | None]:
    """Return, for each number, the first fitting number's GPU-hours over its own; None if nothing fits on it."""
    hours = [each.gpus * each.candidates[0].minutes if each.candidates else None for each in results]
    first = next((spent for spent in hours if spent is not None), 0.0)
    return [None if spent is None else first / spent for spent in hours]


def fewest_text(result: SearchResult, minutes: float, top: int) -> str:
    """Return the answer, followed by the layouts of that number of GPUs."""
    best = result.candidates[0]
    answer = (
        f"{result.gpus:,} {result.gpu.name} ({best.config.layout.nodes:,} nodes) are the fewest that reach the target "
        f"in {minutes:g} minutes:\n{best.minutes:.1f} expected, {best.minutes * (1 + result.spread):.1f} if steps are "
        "as slow as they may be"
    )
    if result.graph_gain is not None:
        answer += f", {best.minutes * result.graph_gain:.1f} without a CUDA graph of the whole iteration"
    return f"{answer}\n\n{table(result, top)}"


def too_slow(fastest: SearchResult | None, minutes: float) -> str:
    """Return why no number of GPUs is fast enough."""
    if fastest is None:
        return "no layout fits on any number of GPUs"
    best = fastest.candidates[0]
    return (
        f"no number of {fastest.gpu.name} reaches the target in {minutes:g} minutes in {fastest.precision}: the "
        f"fastest layout takes {best.minutes:.1f} on {fastest.gpus:,} ({name(best.job)}); more GPUs only make the "
        "batch larger"
    )


# For programs.


def plan_values(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values: bytes, seconds, minutes and samples."""
    job = plan.job
    return {
        "system": plan.config.system,
        "benchmark": plan.config.benchmark,
        "ruleset": plan.config.rules.ruleset,
        "gpu": job.gpu.name,
        "gpus": job.gpus,
        "precision": job.precision,
        "global_batch_size": job.global_batch_size,
        "fits": plan.fits,
        "memory": {
            "capacity": job.gpu.memory,
            "stages": [
                {
                    "stage": stage.stage,
                    "layers": stage.layers,
                    "allocated": stage.allocated,
                    "reserved": stage.reserved,
                    "total": stage.total,
                    "parts": dict(stage.parts),
                }
                for stage in plan.stages
            ],
            "remedies": [
                {"change": dict(remedy.change), "total": remedy.total, "step": remedy.step} for remedy in plan.remedies
            ],
        },
        "step": {
            "seconds": plan.pace.step,
            "spread": plan.pace.spread,
            "parts": dict(plan.parts),
            "tflops_per_gpu": plan.flops / 1e12,
        },
        "measured_steps": plan.measured,
        "software": f"{job.release} {job.stack}",
        "evaluation_seconds": plan.pace.evaluation,
        "outcomes": [
            {
                "samples": outcome.samples,
                "steps": outcome.steps,
                "evaluations": outcome.evaluations,
                "minutes": outcome.minutes,
                "margin": outcome.margin,
                "factor": outcome.factor,
            }
            for outcome in plan.outcomes
        ],
        "without_graph": None
        if plan.without_graph is None
        else {
            "gain": plan.without_graph.gain,
            "step_seconds": plan.without_graph.pace.step,
            "minutes": [outcome.minutes for outcome in plan.without_graph.outcomes],
        },
        "walltime_minutes": plan.walltime,
    }


def scaling_values(results: Sequence[SearchResult], others: Mapping[int, Sequence[Instead]]) -> dict[str, Any]:
    """Return the fastest layout for each number of GPUs as JSON values."""
    counts = [
        {**search_values(each, 1, others.get(each.gpus, ())), "efficiency": efficiency}
        for each, efficiency in zip(results, efficiencies(results), strict=True)
    ]
    return {"counts": counts}


def search_values(result: SearchResult, top: int, others: Sequence[Instead]) -> dict[str, Any]:
    """Return a search as JSON values, with what would fit if nothing does."""
    return {
        "gpu": result.gpu.name,
        "gpus": result.gpus,
        "precision": result.precision,
        "measured_steps": result.measured,
        "spread": result.spread,
        "graph_gain": result.graph_gain,
        "layouts": [
            {
                "variables": dict(candidate.values),
                "global_batch_size": candidate.job.global_batch_size,
                "step_seconds": candidate.step,
                "memory": candidate.memory,
                "minutes": candidate.minutes,
                "minutes_by_kind": dict(candidate.kinds),
            }
            for candidate in result.candidates[:top]
        ],
        "refusals": [
            {"reason": refusal.reason, "layouts": refusal.layouts, "example": refusal.example}
            for refusal in result.refusals
        ],
        "instead": [{"what": other.what, **search_values(other.result, 1, ())} for other in others],
    }
