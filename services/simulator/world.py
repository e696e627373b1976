"""The world that shoppers live in, and how one session goes. The package's docstring tells it."""

import itertools
import random
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.simulator.catalogue import DAY_MS, SimulatedItem, build_items, product_types

Moment = tuple[int, dict[str, Any]]  # epoch ms, event fields without id and timestamp
PushedSlate = tuple[str, Sequence[str]]  # recommendation_id, item ids best first
SlateOf = Callable[[str], PushedSlate | None]
TOURNAMENT = 4  # items that come into view at once
TRENDS = 12


@dataclass(frozen=True, slots=True)
class Trend:
    """For some days everybody wants a product type more."""

    type_index: int
    start_ms: int
    end_ms: int
    factor: float


@dataclass(slots=True)
class Shopper:
    """Somebody with a taste."""

    user_id: str
    types: list[int]
    weights: list[float]
    level: float
    brands: frozenset[str]
    device: str
    country: str
    bought: set[str] = field(default_factory=set)
    sessions: int = 0


class World:
    """
    A shop and its public between two moments; the same for the same arguments.

    Args:
        seed: Decides everything.
        items: Size of the catalogue.
        start_ms: Epoch ms when trends and arrivals begin.
        end_ms: Epoch ms when they end; shoppers may go on after it.
    """

    def __init__(self, seed: int, items: int, start_ms: int, end_ms: int) -> None:
        self.seed = seed
        self.start_ms, self.end_ms = start_ms, end_ms
        self.types = product_types()
        self.items = build_items(self.types, items, seed, start_ms, end_ms)
        self._index = {item.item_id: item for item in self.items}
        by_name = {kind.category: index for index, kind in enumerate(self.types)}
        self._partners = [[by_name[name] for name in kind.goes_with] for kind in self.types]
        self._of_type: list[list[SimulatedItem]] = [[] for _ in self.types]
        for item in self.items:
            self._of_type[item.type_index].append(item)
        self._appeal = [
            list(itertools.accumulate(item.appeal for item in items)) for items in self._of_type
        ]
        rng = random.Random(f"trends {seed}")  # noqa: S311
        self._trends = [self._trend(rng) for _ in range(TRENDS)]

    def _trend(self, rng: random.Random) -> Trend:
        start_ms = rng.randrange(self.start_ms, max(self.end_ms, self.start_ms + 1))
        end_ms = start_ms + rng.randrange(2 * DAY_MS, 6 * DAY_MS)
        return Trend(rng.randrange(len(self.types)), start_ms, end_ms, rng.uniform(2, 5))

    def shopper(self, number: int) -> Shopper:
        """Shopper *number*: always the same person."""
        rng = random.Random(f"shopper {self.seed} {number}")  # noqa: S311
        types = rng.sample(range(len(self.types)), rng.randint(3, 6))
        brands = sorted({item.brand for item in self.items})
        return Shopper(
            f"u{number:06d}",
            types,
            [rng.gammavariate(0.8, 1) + 0.05 for _ in types],
            rng.random(),
            frozenset(rng.sample(brands, min(3, len(brands)))),
            rng.choice(("mobile", "mobile", "desktop", "tablet")),
            rng.choice(("US", "US", "GB", "DE", "FR", "IN")),
        )

    def wanted_type(self, shopper: Shopper, at_ms: int, rng: random.Random) -> int:
        """A product type by the shopper's taste, and by what everybody wants at that moment."""
        trending = [trend for trend in self._trends if trend.start_ms <= at_ms < trend.end_ms]
        types = [*shopper.types, *(trend.type_index for trend in trending)]
        base = sum(shopper.weights) / 20
        weights = [*shopper.weights, *(base * trend.factor for trend in trending)]
        return rng.choices(types, weights)[0]

    def pick(self, type_index: int, shopper: Shopper, at_ms: int, rng: random.Random) -> Any:
        """The best fitting of the few items of a type that come into view, and those items."""
        items, cumulative = self._of_type[type_index], self._appeal[type_index]
        in_view = [
            items[bisect(cumulative, rng.random() * cumulative[-1], hi=len(items) - 1)]
            for _ in range(TOURNAMENT)
        ]
        in_view = [item for item in in_view if item.created_ms <= at_ms] or in_view
        return max(in_view, key=lambda item: self.fit(item, shopper)), in_view

    def fit(self, item: SimulatedItem, shopper: Shopper) -> float:
        """How well an item suits a shopper: about -1 to 1.5."""
        fit = 0.5 - abs(item.level - shopper.level)
        if item.brand in shopper.brands:
            fit += 0.5
        if item.type_index in shopper.types:
            fit += 0.3
        if item.item_id in shopper.bought and not self.types[item.type_index].consumable:
            fit -= 2
        return fit

    def session(
        self, shopper: Shopper, start_ms: int, rng: random.Random, slate_of: SlateOf | None = None
    ) -> Iterator[Moment]:
        """
        One visit, event by event, in order of time but for a refund days later.

        Args:
            slate_of: Asked before each step of a live shopper for the slate that was pushed.
        """
        visit = _Visit(self, shopper, start_ms, rng)
        yield from visit.arrive()
        while rng.random() < 0.84:
            yield from visit.step(slate_of(shopper.user_id) if slate_of else None)
        yield from visit.leave()

    def item(self, item_id: str) -> SimulatedItem | None:
        """The item of that id."""
        return self._index.get(item_id)

    def partners(self, type_index: int) -> list[int]:
        """Types that belong with a type."""
        return self._partners[type_index]


class _Visit:
    def __init__(self, world: World, shopper: Shopper, start_ms: int, rng: random.Random) -> None:
        self._world, self._shopper, self._rng = world, shopper, rng
        self._now_ms = start_ms
        self._intent = world.wanted_type(shopper, start_ms, rng)
        self._seen: list[SimulatedItem] = []
        self._cart: list[SimulatedItem] = []
        shopper.sessions += 1
        self._session_id = f"{shopper.user_id}-{start_ms // 1000}-{shopper.sessions}"

    def _event(self, event_type: str, item: SimulatedItem | None, **more: Any) -> Moment:
        context = {"device": self._shopper.device, "country": self._shopper.country}
        fields = {
            "event_type": event_type,
            "user_id": self._shopper.user_id,
            "session_id": self._session_id,
            "context": context | more.pop("context", {}),
            **more,
        }
        if item is not None:
            fields |= {"item_id": item.item_id, "price": item.price, "currency": "USD"}
        return self._now_ms, fields

    def _pause(self, median_s: float) -> None:
        self._now_ms += int(1000 * self._rng.lognormvariate(0, 0.8) * median_s) + 1

    def arrive(self) -> Iterator[Moment]:
        if self._rng.random() < 0.25:
            kind = self._world.types[self._intent]
            yield self._event("search", None, query=self._rng.choice(kind.nouns).lower())
            self._pause(4)
        yield from self.step(None)

    def step(self, slate: PushedSlate | None) -> Iterator[Moment]:
        rng, world = self._rng, self._world
        if slate is not None and rng.random() < 0.4 and (item := self._from_slate(slate)):
            yield from self._open(item, recommendation_id=slate[0], context={"page": "home"})
            return
        if self._seen and (chance := rng.random()) < 0.30:
            if chance < 0.12:
                yield from self._open(rng.choice(self._seen))
                return
            others = world.partners(self._intent) if chance < 0.22 else None
            self._intent = (
                rng.choice(others)
                if others
                else world.wanted_type(self._shopper, self._now_ms, rng)
            )
        item, in_view = world.pick(self._intent, self._shopper, self._now_ms, rng)
        if rng.random() < 0.25:
            page = {"page": "category"}
            for place, shown in enumerate(dict.fromkeys(in_view), start=1):
                yield self._event("impression", shown, context=page | {"position": place})
            self._pause(3)
        yield from self._open(item)

    def _from_slate(self, slate: PushedSlate) -> SimulatedItem | None:
        for item_id in slate[1][:10]:
            item = self._world.item(item_id)
            if item is None or item in self._seen[-3:]:
                continue
            suits = item.type_index == self._intent or item.type_index in self._shopper.types
            if self._rng.random() < (0.35 if suits else 0.04):
                self._intent = item.type_index
                return item
        return None

    def _open(self, item: SimulatedItem, **more: Any) -> Iterator[Moment]:
        rng = self._rng
        if more or rng.random() < 0.5:
            yield self._event("click", item, **more)
            self._now_ms += rng.randint(0, 40)  # the page's own view often shares the millisecond
        yield self._event("view", item, **more)
        self._seen.append(item)
        self._pause(20)
        fit = self._world.fit(item, self._shopper)
        if fit > 0 and rng.random() < 0.16 * fit + 0.03:
            yield self._event("add_to_cart", item, quantity=1, **more)
            self._cart.append(item)
            self._pause(8)
        elif rng.random() < 0.03:
            yield self._event("wishlist", item)
        elif fit < 0.1 and rng.random() < 0.1:
            yield self._event("dislike", item)

    def leave(self) -> Iterator[Moment]:
        rng = self._rng
        if self._cart and rng.random() < 0.15:
            yield self._event("remove_from_cart", self._cart.pop(rng.randrange(len(self._cart))))
            self._pause(5)
        if not self._cart or rng.random() > 0.6:
            return
        for item in dict.fromkeys(self._cart):
            yield self._event("checkout", item)
        self._pause(45)
        if rng.random() > 0.75:
            return
        order_id = f"o-{self._session_id}"
        bought = list(dict.fromkeys(self._cart))
        for item in bought:
            quantity = self._cart.count(item)
            yield self._event("purchase", item, quantity=quantity, order_id=order_id)
            self._shopper.bought.add(item.item_id)
        if rng.random() < 0.04:
            self._now_ms += rng.randrange(2 * DAY_MS, 9 * DAY_MS)
            item = rng.choice(bought)
            self._shopper.bought.discard(item.item_id)
            yield self._event("refund", item, order_id=order_id)
