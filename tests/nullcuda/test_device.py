"""The null device keeps CUDA's rules: those of its documentation on memory, streams, stream capture and launches."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Iterator
from ctypes import byref, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

MIB = 2**20
MEMORY = 1000 * MIB

# Errors by their numbers in CUDA's documentation of cudaError_t.
INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONFIGURATION, INVALID_HANDLE = 1, 2, 9, 400
UNSUPPORTED, INVALIDATED, MERGE, UNMATCHED, UNJOINED, ISOLATION, IMPLICIT, CAPTURED_EVENT, WRONG_THREAD = range(
    900, 909
)

GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
NON_BLOCKING, DISABLE_TIMING = 1, 2


class Dim3(ctypes.Structure):
    _fields_ = [("x", c_uint), ("y", c_uint), ("z", c_uint)]


class Device:
    """The library, with each function's arguments as they are given here."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.nullcuda_report.restype = ctypes.c_char_p
        self._library.nullcuda_become.argtypes = [ctypes.c_char_p, c_int, c_size_t, c_int, c_int]
        self._library.nullcuda_become(b"a null GPU", 90, MEMORY, 132, 2)
        self._kernel = ctypes.create_string_buffer(8)
        none = [None] * 6
        self._library.__getattr__("__cudaRegisterFunction")(None, self._kernel, None, b"a_kernel", -1, *none[:5])

    def __call__(self, function: str, *arguments: Any) -> int:
        """Its status. Integers are sizes."""
        return getattr(self._library, function)(*(c_size_t(one) if isinstance(one, int) else one for one in arguments))

    def made(self, function: str, *arguments: Any) -> c_void_p:
        """What a function that succeeds makes."""
        made = c_void_p()
        assert self(function, byref(made), *arguments) == 0
        return made

    def stream(self, flags: int = NON_BLOCKING) -> c_void_p:
        return self.made("cudaStreamCreateWithFlags", flags)

    def event(self, flags: int = 0) -> c_void_p:
        return self.made("cudaEventCreateWithFlags", flags)

    def recorded(self, stream: c_void_p) -> c_void_p:
        event = self.event()
        assert self("cudaEventRecord", event, stream) == 0
        return event

    def launch(self, stream: c_void_p | None, threads: int = 32, shared: int = 0) -> int:
        return self("cudaLaunchKernel", self._kernel, Dim3(1, 1, 1), Dim3(threads, 1, 1), None, shared, stream)

    def begin(self, stream: c_void_p, mode: int = GLOBAL) -> None:
        assert self("cudaStreamBeginCapture", stream, mode) == 0

    def end(self, stream: c_void_p) -> tuple[int, c_void_p]:
        graph = c_void_p()
        return self("cudaStreamEndCapture", stream, byref(graph)), graph

    def nodes(self, graph: c_void_p) -> int:
        count = c_size_t()
        assert self("cudaGraphGetNodes", graph, None, byref(count)) == 0
        return count.value

    def reset(self) -> None:
        self._library.nullcuda_reset()

    def report(self) -> dict[str, Any]:
        return json.loads(self._library.nullcuda_report())


@pytest.fixture(scope="session")
def loaded(null_python: str) -> Device:
    (library,) = Path(null_python).parents[1].glob("lib/python3.*/site-packages/nvidia/cu13/lib/libnullcuda.so")
    return Device(library)


@pytest.fixture
def device(loaded: Device) -> Device:
    loaded.reset()
    return loaded


@pytest.fixture
def captured(device: Device) -> Iterator[c_void_p]:
    """A stream that is being captured."""
    stream = device.stream()
    device.begin(stream)
    yield stream
    device.end(stream)


def test_no_more_memory_than_the_gpu_has(device: Device) -> None:
    half = [device.made("cudaMalloc", MEMORY // 2) for _ in range(2)]
    assert device("cudaMalloc", byref(c_void_p()), 1) == OUT_OF_MEMORY
    assert device("cudaFree", half[0]) == 0
    half[0] = device.made("cudaMalloc", MEMORY // 2)
    assert [device("cudaFree", one) for one in half] == [0, 0]


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 100 * MIB), max_size=20), data=st.data())
def test_memory_in_use_is_what_is_allocated_in_whole_granules(loaded: Device, sizes: list[int], data: Any) -> None:
    held: dict[int, int] = {}
    try:
        for size in sizes:
            mapped, pointer = -(-size // (2 * MIB)) * 2 * MIB, c_void_p()
            status = loaded("cudaMalloc", byref(pointer), size)
            assert status == (0 if sum(held.values()) + mapped <= MEMORY else OUT_OF_MEMORY)
            if pointer.value is not None:
                held[pointer.value] = mapped
            if held and data.draw(st.booleans()):
                freed = data.draw(st.sampled_from(sorted(held)))
                del held[freed]
                assert loaded("cudaFree", c_void_p(freed)) == 0
            assert loaded.report()["used"] == sum(held.values())
    finally:
        # An example may end in the middle, at a draw.
        statuses = {loaded("cudaFree", c_void_p(one)) for one in held}
    assert statuses <= {0}


def test_physical_memory_comes_in_granules_and_counts_until_it_is_released(device: Device) -> None:
    handle = ctypes.c_ulonglong()
    assert device("cuMemCreate", byref(handle), 3 * MIB, None, 0) == INVALID_VALUE
    assert device("cuMemCreate", byref(handle), MEMORY, None, 0) == 0
    assert device("cuMemCreate", byref(ctypes.c_ulonglong()), 2 * MIB, None, 0) == OUT_OF_MEMORY
    assert device("cuMemRelease", handle) == 0
    assert device.report()["used"] == 0


def test_an_allocation_breaks_a_capture(device: Device, captured: c_void_p) -> None:
    assert device("cudaMalloc", byref(c_void_p()), MIB) == UNSUPPORTED
    assert device.launch(captured) == INVALIDATED
    status, graph = device.end(captured)
    assert (status, graph.value) == (INVALIDATED, None)


def test_a_relaxed_capture_lets_one_allocate(device: Device) -> None:
    stream = device.stream()
    device.begin(stream, RELAXED)
    mode = c_int(RELAXED)
    assert device("cudaThreadExchangeStreamCaptureMode", byref(mode)) == 0
    pointer = device.made("cudaMalloc", MIB)
    assert device("cudaThreadExchangeStreamCaptureMode", byref(mode)) == 0
    assert device.end(stream)[0] == 0
    assert device("cudaFree", pointer) == 0


@pytest.mark.parametrize("function", ["cudaStreamSynchronize", "cudaStreamQuery"])
def test_nobody_waits_for_a_captured_stream(device: Device, captured: c_void_p, function: str) -> None:
    assert device(function, captured) == UNSUPPORTED


@pytest.mark.parametrize("function", ["cudaEventSynchronize", "cudaEventQuery"])
def test_nobody_waits_for_an_event_of_a_capture(device: Device, captured: c_void_p, function: str) -> None:
    assert device(function, device.recorded(captured)) == CAPTURED_EVENT


def test_nobody_waits_for_the_device_during_a_capture(device: Device, captured: c_void_p) -> None:
    del captured
    assert device("cudaDeviceSynchronize") == UNSUPPORTED


def test_a_stream_that_joins_and_is_joined_is_in_the_graph(device: Device) -> None:
    first, second = device.stream(), device.stream()
    device.begin(first)
    assert device.launch(first) == 0
    assert device("cudaStreamWaitEvent", second, device.recorded(first), 0) == 0
    assert [device.launch(second), device.launch(second)] == [0, 0]
    assert device("cudaStreamWaitEvent", first, device.recorded(second), 0) == 0
    status, graph = device.end(first)
    assert (status, device.nodes(graph)) == (0, 3)


def test_work_that_is_not_joined_again_fails_the_capture(device: Device) -> None:
    first, second = device.stream(), device.stream()
    device.begin(first)
    assert device("cudaStreamWaitEvent", second, device.recorded(first), 0) == 0
    assert device.launch(second) == 0
    assert device("cudaStreamWaitEvent", first, device.recorded(second), 0) == 0
    assert device.launch(second) == 0
    assert device.end(first)[0] == UNJOINED
    assert device.launch(second) == 0  # it is free again


def test_a_capture_depends_on_nothing_from_before_it(device: Device) -> None:
    first, second = device.stream(), device.stream()
    before = device.recorded(second)
    device.begin(first)
    assert device("cudaStreamWaitEvent", first, before, 0) == ISOLATION
    assert device.end(first)[0] == INVALIDATED


def test_two_captures_do_not_merge(device: Device) -> None:
    first, second = device.stream(), device.stream()
    device.begin(first)
    device.begin(second)
    assert device("cudaStreamWaitEvent", second, device.recorded(first), 0) == MERGE
    assert [device.end(first)[0], device.end(second)[0]] == [INVALIDATED, INVALIDATED]


def test_a_capture_ends_where_it_began(device: Device) -> None:
    first, second = device.stream(), device.stream()
    device.begin(first)
    assert device("cudaStreamWaitEvent", second, device.recorded(first), 0) == 0
    assert device.end(second)[0] == UNMATCHED
    assert device.end(first)[0] == INVALIDATED


def test_a_capture_ends_in_its_thread(device: Device) -> None:
    stream = device.stream()
    device.begin(stream, THREAD_LOCAL)
    statuses: list[int] = []
    other = threading.Thread(target=lambda: statuses.append(device.end(stream)[0]))
    other.start()
    other.join()
    assert statuses == [WRONG_THREAD]
    assert device.end(stream)[0] == 0


def test_the_legacy_stream_is_no_part_of_a_capture(device: Device) -> None:
    blocking = device.stream(flags=0)
    device.begin(blocking)
    assert device.launch(None) == IMPLICIT
    assert device.end(blocking)[0] == INVALIDATED


def test_a_graph_counts_what_was_captured(device: Device) -> None:
    stream = device.stream()
    device.begin(stream)
    assert [device.launch(stream) for _ in range(5)] == [0] * 5
    status, graph = device.end(stream)
    executable = device.made("cudaGraphInstantiateWithFlags", graph, 0)
    assert [status, device("cudaGraphLaunch", executable, stream)] == [0, 0]
    calls = device.report()["calls"]
    assert (calls["captures"], calls["cudaGraphLaunch"], calls["operations in graphs"]) == (1, 1, 5)


def test_impossible_launches_are_refused(device: Device) -> None:
    stream = device.stream()
    assert device.launch(stream, threads=1024, shared=227 * 1024) == 0
    assert device.launch(stream, threads=1025) == INVALID_CONFIGURATION
    assert device.launch(stream, threads=0) == INVALID_CONFIGURATION
    assert device.launch(stream, shared=227 * 1024 + 1) == INVALID_CONFIGURATION
    assert device.report()["kernels"] == {"a_kernel": 1}


def test_the_host_waits_for_pageable_memory_and_not_for_pinned(device: Device) -> None:
    stream, on_device = device.stream(), device.made("cudaMalloc", MIB)
    pinned, pageable = device.made("cudaHostAlloc", 8, 0), ctypes.create_string_buffer(b"written")
    to_device, to_host = 1, 2
    assert device("cudaMemcpyAsync", on_device, pageable, 8, to_device, stream) == 0  # nothing is queued before it
    assert device("cudaMemcpyAsync", on_device, pageable, 8, to_device, stream) == 0
    assert device("cudaMemcpyAsync", pinned, on_device, 8, to_host, stream) == 0
    assert device("cudaMemcpyAsync", ctypes.create_string_buffer(8), on_device, 8, to_host, stream) == 0
    assert ctypes.string_at(pinned) == b"written"
    assert device.report()["waits"] == {"copy device to host, pageable": 1, "copy host to device, pageable": 1}
    assert device("cudaFree", on_device) == 0


def test_a_wait_counts_where_there_is_work_to_wait_for(device: Device) -> None:
    stream, other = device.stream(), device.stream()
    assert device.launch(stream) == 0
    assert [device("cudaStreamSynchronize", one) for one in (other, stream, stream)] == [0, 0, 0]
    assert device.launch(other) == 0
    assert [device("cudaDeviceSynchronize"), device("cudaDeviceSynchronize")] == [0, 0]
    assert device.report()["waits"] == {"cudaStreamSynchronize": 1, "cudaDeviceSynchronize": 1}


def test_an_event_without_timing_measures_nothing(device: Device) -> None:
    stream, timed, untimed = device.stream(), device.event(), device.event(DISABLE_TIMING)
    for event in (timed, untimed):
        assert device("cudaEventRecord", event, stream) == 0
    seconds = ctypes.c_float()
    assert device("cudaEventElapsedTime", byref(seconds), timed, timed) == 0
    assert device("cudaEventElapsedTime", byref(seconds), timed, untimed) == INVALID_HANDLE


def test_what_is_not_implemented_is_counted(device: Device) -> None:
    assert device("cudaProfilerStart") == 0
    assert device.report()["unanswered"] == {"cudaProfilerStart": 1}
