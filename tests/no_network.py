"""Sockets that reach no further than this machine."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

NO_ROUTE = OSError(errno.ENETUNREACH, "the network is blocked")


def _is_local(host: object) -> bool:
    if host in (None, "", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host)).is_loopback
    except ValueError:
        return False


@contextmanager
def blocked_network() -> Iterator[list[object]]:
    """Refuse connections and look-ups beyond this machine while the body runs; yield what was asked for."""
    asked: list[object] = []

    def guarded(operation, address_of):
        def checked(*arguments, **options):
            host = address_of(arguments)
            if not _is_local(host):
                asked.append(host)
                raise NO_ROUTE
            return operation(*arguments, **options)

        return checked

    def peer(arguments):
        own, address = arguments[:2]
        return address[0] if own.family in (socket.AF_INET, socket.AF_INET6) else None

    with mock.patch.multiple(socket.socket, connect=guarded(socket.socket.connect, peer),
                             connect_ex=guarded(socket.socket.connect_ex, peer), create=True), \
            mock.patch.object(socket, "getaddrinfo", guarded(socket.getaddrinfo, lambda arguments: arguments[0])):
        yield asked
