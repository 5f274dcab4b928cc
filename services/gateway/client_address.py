"""Whose request it is: the address that limits and audit rows go by."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class ClientAddresses:
    """Believes X-Forwarded-For only as far as trusted proxies wrote it."""

    trusted: Sequence[Network] = ()

    def client(self, peer: str | None, forwarded: Sequence[str]) -> str:
        """The nearest address that is no proxy of ours: from the peer on, through the header's right end.

        `forwarded`: the values of all X-Forwarded-For headers in order.
        """
        client = _address(peer or "")
        if client is None:
            return "unknown"
        for hop in reversed(",".join(forwarded).split(",")):
            address = _address(hop)
            if address is None or not self._trusts(client):
                break
            client = address
        return str(client)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self.trusted)


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
