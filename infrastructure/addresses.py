"""Which addresses a stranger may make us connect to. Pure: an address in, a verdict out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# `is_global` alone is not the filter: it calls multicast, and NAT64 of 127.0.0.1, global.
_CLOSED: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)

# Where clouds keep the credentials of a machine. The last two are public addresses and a shared one.
_METADATA: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fd00:ec2::/32",
        "fd20:ce::/32",
        "192.0.0.192/32",
        "168.63.129.16/32",
        "100.100.100.200/32",
    )
)

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = IPv6Network("::/96")


def meanings_of(address: Address) -> Iterator[Address]:
    """`address` and every IPv4 address that it carries to somebody: mapped, compatible, NAT64, 6to4, Teredo."""
    yield address
    if isinstance(address, IPv4Address):
        return
    last = IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if any(address in network for network in _NAT64) or address in _COMPATIBLE:
        yield last
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo


def is_metadata(address: Address) -> bool:
    """Whether a cloud may answer there with a machine's credentials, however the address is written."""
    return any(_is_in(meaning, _METADATA) for meaning in meanings_of(address))


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Public addresses, and what the operator opened beside them; never metadata addresses.

    `networks` are open for every name, `hosts` (lower case; `*.example.org` means every name below) at any address.
    """

    networks: tuple[Network, ...] = ()
    hosts: tuple[str, ...] = ()

    def permit(self, host: str, addresses: Sequence[Address]) -> bool:
        """Whether a connection to `host`, which is at `addresses`, may be made: one bad address spoils all."""
        if not addresses or any(is_metadata(address) for address in addresses):
            return False
        if self._is_open(host):
            return True
        return all(self._permits(plain(address)) for address in addresses)

    def _is_open(self, host: str) -> bool:
        name = host.lower().rstrip(".")
        return any(name.endswith(open_[1:]) if open_.startswith("*.") else name == open_ for open_ in self.hosts)

    def _permits(self, address: Address) -> bool:
        if _is_in(address, self.networks):
            return True
        return all(meaning.is_global and not _is_in(meaning, _CLOSED) for meaning in meanings_of(address))


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one only spells (`::ffff:10.0.0.1`), else the address itself."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def parse(text: str) -> Address:
    """An address as the system writes it; a scope (`%eth0`) is left out. Raises ValueError."""
    return ip_address(text.partition("%")[0])


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
