"""Which addresses may be reached on a stranger's word."""

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infrastructure.addresses import AddressRules, is_metadata, meanings_of, parse

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "::ffff:8.8.8.8"]
CLOSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.1.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "64:ff9b::808:808",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:c0a8:101::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
]
EVERYTHING = AddressRules((ip_network("0.0.0.0/0"), ip_network("::/0")), ("*.example", "here"))


def permits(address: str, rules: AddressRules | None = None, host: str = "audio.example.org") -> bool:
    return (rules or AddressRules()).permit(host, [parse(address)])


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_reached(address: str) -> None:
    assert permits(address)


@pytest.mark.parametrize("address", CLOSED + METADATA)
def test_addresses_of_this_network_in_any_disguise_may_not(address: str) -> None:
    assert not permits(address)


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("host", ["here", "a.example", "elsewhere"])
def test_metadata_addresses_stay_closed_whatever_is_opened(address: str, host: str) -> None:
    assert is_metadata(parse(address))
    assert not permits(address, EVERYTHING, host)


def test_one_bad_address_spoils_all() -> None:
    assert not AddressRules().permit("a.example.org", [parse("8.8.8.8"), parse("10.0.0.1")])
    assert not AddressRules().permit("a.example.org", [])


def test_an_open_network_opens_exactly_that() -> None:
    rules = AddressRules((ip_network("192.168.7.0/24"),))
    assert permits("192.168.7.9", rules)
    assert permits("::ffff:192.168.7.9", rules)
    assert not permits("192.168.8.9", rules)
    assert not permits("64:ff9b::c0a8:709", rules)


def test_an_open_host_is_open_at_any_address() -> None:
    rules = AddressRules(hosts=("nas", "*.home.example"))
    assert permits("10.0.0.1", rules, "nas")
    assert permits("10.0.0.1", rules, "NAS.")
    assert permits("10.0.0.1", rules, "a.home.example")
    assert not permits("10.0.0.1", rules, "home.example")
    assert not permits("10.0.0.1", rules, "evilhome.example")
    assert not permits("10.0.0.1", rules, "nas.example.org")


@given(st.integers(0, 2**32 - 1))
def test_no_disguise_makes_an_address_more_reachable_than_it_is(number: int) -> None:
    bare = IPv4Address(number)
    disguises = [0xFFFF << 32 | number, number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80]
    for disguise in map(IPv6Address, disguises):
        assert bare in set(meanings_of(disguise))
        assert AddressRules().permit("a", [bare]) or not AddressRules().permit("a", [disguise])
