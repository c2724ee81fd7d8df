"""python -m harness.launch.address ADDRESS --nodes N: print yes if ADDRESS belongs to this node, one of N, else no.

The node itself is asked because only it knows all of its names and interfaces; a batch system knows just one name.
"""

from __future__ import annotations

import ipaddress
import socket

import click

from benchmark.answers import answer


def is_own(address: str, nodes: int) -> bool:
    """Return whether a name or an address belongs to this node and lets others reach it.

    Args:
        nodes: number of the job's nodes. Every node has a loopback address, so one can be a meeting point only if there
            is a single node.
    """
    if nodes > 1 and _is_loopback(address):
        return False
    return address in (socket.gethostname(), socket.getfqdn()) or any(map(_can_bind, _addresses(address)))


def _is_loopback(address: str) -> bool:
    """Judge the address as written: a node may resolve its own name to the loopback device (Debian's 127.0.1.1)."""
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
    """Return whether this node has an interface with the address: only then can it listen there."""
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
    """Print whether an address belongs to this node."""
    answer("yes" if is_own(address, nodes) else "no")


if __name__ == "__main__":
    main()
