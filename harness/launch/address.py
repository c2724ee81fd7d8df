"""python -m harness.launch.address ADDRESS --nodes N: does ADDRESS belong to this node, one of N? Answers yes or no.

A node is asked because only it knows all of its names and interfaces: what a batch system calls it is one of them.
"""

from __future__ import annotations

import ipaddress
import socket

import click

from benchmark.answers import answer


def is_own(address: str, nodes: int) -> bool:
    """Return whether a name or an address is one of this node's, by which others can reach it.

    Args:
        nodes: of the job. A loopback address is each one's own, so it tells where to meet only if there is one.
    """
    if nodes > 1 and _is_loopback(address):
        return False
    return address in (socket.gethostname(), socket.getfqdn()) or any(map(_can_bind, _addresses(address)))


def _is_loopback(address: str) -> bool:
    """As it is written: a node's own name may lead to the loopback device on itself (Debian's 127.0.1.1)."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.partition(".")[0] in ("localhost", "ip6-localhost", "ip6-loopback")


def _addresses(address: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [(family, str(place[0])) for family, _, _, _, place in found]


def _can_bind(place: tuple[socket.AddressFamily, str]) -> bool:
    """Only an address of an interface of this node can be listened at."""
    family, address = place
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


@click.command()
@click.argument("address")
@click.option("--nodes", type=int, required=True)
def main(address: str, nodes: int) -> None:
    """Say whether an address is this node's."""
    answer("yes" if is_own(address, nodes) else "no")


if __name__ == "__main__":
    main()
