"""Restoring an optimizer that is not torch's own."""

from __future__ import annotations

from typing import Any

import torch

from reference_impl.preserve import _OptimizerState


class CountsInItsGroups(torch.optim.AdamW):
    """As Transformer Engine's FusedAdam does: the number of steps is the group's, and there from the first one on."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for parameter in group["params"]:
                self.state[parameter]["extra"] = torch.ones(())


def made() -> tuple[torch.nn.Parameter, CountsInItsGroups]:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    return parameter, CountsInItsGroups([parameter], lr=0.1)


def seen(optimizer: torch.optim.Optimizer) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups and states, key by key."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    states = [
        {name: value.clone() if torch.is_tensor(value) else value for name, value in state.items()}
        for state in optimizer.state.values()
    ]
    return groups, states


def test_what_an_optimizer_begins_to_count_is_forgotten() -> None:
    """Before its first step there is no count, so a second first step is again the first."""
    parameter, optimizer = made()
    before = seen(optimizer)
    state = _OptimizerState(optimizer)
    optimizer.step()
    state.restore()
    assert seen(optimizer) == before
    optimizer.step()
    assert optimizer.param_groups[0]["step"] == 1
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.899))


def test_what_it_has_counted_is_what_it_goes_on_with() -> None:
    """In the middle of training it is restored to the bit, without anything that came in between."""
    _, optimizer = made()
    optimizer.step()
    for state in optimizer.state.values():
        del state["extra"]
    groups, states = seen(optimizer)
    kept = _OptimizerState(optimizer)
    optimizer.step()
    kept.restore()
    groups_after, states_after = seen(optimizer)
    assert groups_after == groups
    assert [state.keys() for state in states_after] == [state.keys() for state in states]
    assert all(
        torch.equal(state[name], other[name])
        for state, other in zip(states_after, states, strict=True)
        for name in state
    )
