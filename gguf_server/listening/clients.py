"""Whose connection or request it is: the peer's address, or what a trusted proxy says of its own peer."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Network = IPv4Network | IPv6Network


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """None for what is no address. An IPv4 address in IPv6 clothes is the IPv4 address."""
    try:
        address = ipaddress.ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def counted_as(peer: str) -> str:
    """Under which name a peer's connections are counted: whoever has one IPv6 address has the 2^64 beside it."""
    address = address_of(peer)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address or peer)


def is_exempt(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether many clients may be behind this one address."""
    address = address_of(peer)
    return address is None or address.is_loopback or _is_in(address, trusted)


def client_behind(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The nearest address that is not a trusted proxy's; `forwarded` are the values of X-Forwarded-For."""
    nearest = peer
    for text in reversed([part for value in forwarded for part in value.split(",")]):
        told_by = address_of(nearest)
        if told_by is None or not _is_in(told_by, trusted) or (address := address_of(text)) is None:
            break
        nearest = str(address)
    return nearest


def _is_in(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
