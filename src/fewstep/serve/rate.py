"""How often one client may ask: a bucket of tokens each, which fills at the rate and holds what comes in a minute's time at most."""

from __future__ import annotations

import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from fewstep.engine.request import RequestError

SECONDS = {"second": 1, "minute": 60, "hour": 3600}
MOST_CLIENTS = 10_000  # whose buckets are kept


@dataclass(frozen=True)
class Rate:
    """``count`` requests in ``seconds``."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Rate | None:
        """From "60/minute"; None from "off". Raises RequestError on anything else."""
        if text == "off":
            return None
        match = re.fullmatch(r"([1-9]\d{0,6})/(second|minute|hour)", text)
        if not match:
            raise RequestError(f"--rate {text}: write it as 60/minute, 2/second or 500/hour, or off")
        return cls(int(match[1]), SECONDS[match[2]])


class Buckets:
    """A bucket for each client. Who has not asked for long has a full one, so that it need not be kept."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._clock = rate, clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # (tokens, when)

    def take(self, client: str) -> int:
        """Take a token of ``client``'s. Returns 0, or in how many seconds there is one."""
        wait = self.wait(client)
        if not wait:
            client = _network(client)
            tokens, now = self._buckets[client]
            self._buckets[client] = (tokens - 1, now)
        return wait

    def wait(self, client: str) -> int:
        """In how many seconds there is a token of ``client``'s, 0 if there is one now. Takes none."""
        client, now, fill = _network(client), self._clock(), self.rate.count / self.rate.seconds
        tokens, since = self._buckets.pop(client, (float(self.rate.count), now))
        tokens = min(self.rate.count, tokens + (now - since) * fill)
        self._buckets[client] = (tokens, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if tokens >= 1 else max(1, math.ceil((1 - tokens) / fill))


def _network(client: str) -> str:
    """Whoever has one address of version 6 has 2^64 of them."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else client
