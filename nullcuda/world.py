"""Lets one process be a rank of a world of any size. Its store answers in place of the other ranks."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

_ID_BYTES = 128
"""Bytes of NCCL's unique identifier, the only value that ranks exchange through the store."""


class LonelyStore(dist.Store):  # type: ignore[name-defined]
    """Makes an identifier for every key that another rank would have written.

    Attributes:
        told: identifier of a communicator -> the key under which its ranks read it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, bytes] = {}
        self.told: dict[str, str] = {}

    def set(self, key: str, value: str | bytes) -> None:
        self._values[key] = value.encode() if isinstance(value, str) else bytes(value)
        if len(self._values[key]) == _ID_BYTES:
            self.told[_text(self._values[key])] = key

    def get(self, key: str) -> bytes:
        if key not in self._values:
            self.set(key, f"theirs {len(self.told)}".encode().ljust(_ID_BYTES, b"\0"))
        return self._values[key]

    def add(self, key: str, amount: int) -> int:
        self._values[key] = str(int(self._values.get(key, b"0")) + amount).encode()
        return int(self._values[key])

    def check(self, keys: list[str]) -> bool:
        # Otherwise NCCL's monitor would find that another rank has asked all ranks to abort.
        return all(key in self._values for key in keys)

    def wait(self, keys: list[str], timeout: Any = None) -> None:
        """Return at once: nobody else will come."""

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        del expected
        self._values.setdefault(key, desired.encode() if isinstance(desired, str) else bytes(desired))
        return self._values[key]

    def append(self, key: str, value: str | bytes) -> None:
        self._values[key] = self._values.get(key, b"") + (value.encode() if isinstance(value, str) else bytes(value))

    def delete_key(self, key: str) -> bool:
        return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        return len(self._values)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def multi_set(self, keys: list[str], values: list[str | bytes]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def has_extended_api(self) -> bool:
        return True

    def clone(self) -> LonelyStore:
        return self

    def set_timeout(self, timeout: Any) -> None:
        """Do nothing: nothing is waited for."""

    # The names that torch's C++ side calls.
    deleteKey, getNumKeys, compareSet, multiGet, multiSet = delete_key, num_keys, compare_set, multi_get, multi_set


def join(rank: int, world_size: int) -> LonelyStore:
    """Be `rank` of `world_size`. The caller must keep the store, since torch's C++ side holds no reference to it."""
    store = LonelyStore()
    dist.init_process_group("nccl", store=store, rank=rank, world_size=world_size)
    return store


def _text(identifier: bytes) -> str:
    return identifier.rstrip(b"\0").decode()
