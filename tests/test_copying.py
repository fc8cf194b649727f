"""The choice of tool and options: whatever the facts, nothing is skipped on a target that may hold old data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linstor_un import copying
from linstor_un.copying import TARGET_IS_ZERO, End
from linstor_un.errors import Refused
from linstor_un.units import Bytes

MIB = 1 << 20

sizes = st.integers(1, 1 << 40).map(lambda size: Bytes(size * 512))
more = st.integers(0, 16384).map(lambda size: size * 512)
toolboxes = st.frozensets(st.sampled_from([TARGET_IS_ZERO]))


@st.composite
def ends(draw: st.DrawFn) -> tuple[End, End]:
    asked = draw(sizes)
    return tuple(  # type: ignore[return-value]
        End(path, Bytes(asked + draw(more)), draw(st.booleans()), asked) for path in ("/dev/source", "/dev/target")
    )


@given(ends(), st.booleans(), toolboxes)
def test_zeroes_are_skipped_on_known_zeroes_only_and_the_rest_is_zeroed(
    pair: tuple[End, End], zero: bool, tools: frozenset[str]
) -> None:
    source, target = pair
    plan = copying.device_copy(source, target, zero, tools)
    length = min(source.actual, target.actual)
    assert zero or "--target-is-zero" not in plan.argv
    if not zero:
        assert (plan.zero_from, plan.zero_length) == (length, target.actual - length)
    if source.actual > target.actual:
        assert f"size={target.actual}" in " ".join(plan.argv)


def test_the_format_is_always_named_so_that_qemu_never_guesses() -> None:
    end = End("/dev/x", Bytes(MIB), True, Bytes(MIB))
    assert "-f" in copying.device_copy(end, end, False, frozenset()).argv
    assert "-f" in copying.conversion("/stage/image", "vmdk", Bytes(MIB), end, True, frozenset()).argv


@pytest.mark.parametrize("zero", [True, False])
def test_a_stream_is_written_sparsely_on_known_zeroes_only(zero: bool) -> None:
    conversions = next(word for word in copying.reception("/dev/x", zero) if word.startswith("conv="))
    assert ("sparse" in conversions) == zero
    assert "fsync" in conversions and "notrunc" in conversions


@given(ends())
def test_nothing_is_planned_for_a_target_that_is_too_small(pair: tuple[End, End]) -> None:
    source, target = pair
    small = End(target.path, Bytes(source.asked - 512), target.block, Bytes(0))
    with pytest.raises(Refused):
        copying.device_copy(source, small, True, frozenset())
    with pytest.raises(Refused):
        copying.conversion("/stage/image", "qcow2", Bytes(target.asked + 1), target, True, frozenset())


@given(sizes)
def test_the_time_limit_grows_with_the_size(size: Bytes) -> None:
    assert copying.seconds_for(size) >= 900
    assert copying.seconds_for(Bytes(size * 2)) - copying.seconds_for(size) == pytest.approx(size / (4 * MIB))
