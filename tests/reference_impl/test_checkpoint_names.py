"""The mapping between the two formats covers every row of both once."""

from __future__ import annotations

from collections import Counter
from math import prod

from hypothesis import given
from hypothesis import strategies as st

from benchmark.sizes import SIZES, ModelSize
from reference_impl.checkpoint.names import fused, huggingface_shapes, rows, shapes

SMALL_SIZES = st.builds(
    lambda layers, groups, per_group, head, ffn: ModelSize(
        name="",
        layers=layers,
        hidden=groups * per_group * head,
        ffn_hidden=ffn,
        heads=groups * per_group,
        query_groups=groups,
    ),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 9),
)


@given(size=SMALL_SIZES, vocabulary=st.integers(1, 20))
def test_every_row_is_mapped_once(size: ModelSize, vocabulary: int) -> None:
    """Each row of each tensor on either side has exactly one place on the other."""
    parts = list(rows(size, vocabulary))
    on_disk = Counter((p.tensor, p.layer, p.start + i) for p in parts for i in range(p.count))
    others = Counter((p.huggingface, p.huggingface_start + i) for p in parts for i in range(p.count))

    stacked = {name: shape for name, shape in shapes(size, vocabulary).items() if name.startswith("decoder.layers.")}
    single = {name: shape for name, shape in shapes(size, vocabulary).items() if name not in stacked}
    assert set(on_disk.values()) == set(others.values()) == {1}
    assert on_disk.keys() == {(n, i, row) for n, s in stacked.items() for i in range(s[0]) for row in range(s[1])} | {
        (name, None, row) for name, shape in single.items() for row in range(shape[0])
    }
    assert others.keys() == {(n, row) for n, s in huggingface_shapes(size, vocabulary).items() for row in range(s[0])}


def test_the_shapes_hold_the_models_parameters() -> None:
    """Both lists of shapes add up to the closed formula, 405,853,388,800 for the checkpoint of 405B."""
    size = SIZES["405b"]

    assert size.parameters(128_256) == 405_853_388_800
    for listed in (shapes(size, 128_256), huggingface_shapes(size, 128_256)):
        assert sum(map(prod, listed.values())) == 405_853_388_800


def test_norms_have_the_names_of_transformer_engine() -> None:
    """A norm of its own and one that is fused with the projection behind it are the same tensor on disk."""
    fused_name = "decoder.layers.self_attention.linear_qkv.layer_norm_weight"

    assert fused("decoder.layers.input_layernorm.weight") == fused(fused_name) == fused_name
    assert fused("decoder.layers.pre_mlp_layernorm.weight") == "decoder.layers.mlp.linear_fc1.layer_norm_weight"
    assert fused("decoder.final_layernorm.weight") == "decoder.final_layernorm.weight"
