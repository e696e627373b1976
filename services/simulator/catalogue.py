"""The simulated shop's catalogue: real-looking titles from templates. Brands are invented."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class ProductType:
    """What a shopper may have in mind."""

    department: str
    category: str
    nouns: tuple[str, ...]
    price: float  # USD, the middle
    goes_with: tuple[str, ...]  # categories bought together with it
    consumable: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedItem:
    """One item, with what only the simulator knows of it."""

    item_id: str
    title: str
    brand: str
    type_index: int
    price: float
    level: float  # price within its type, 0 cheapest to 1 dearest
    appeal: float
    created_ms: int
    attributes: dict[str, str]


# department: category (nouns) price > goes with; * is consumable
_TABLE = """
Outdoor: Tents (2-Person Tent|Dome Tent|Family Tunnel Tent) 220 > Sleeping Bags, Camping Lights
Outdoor: Sleeping Bags (Down Sleeping Bag|Summer Sleeping Bag|Mummy Bag) 130 > Tents, Sleeping Mats
Outdoor: Sleeping Mats (Inflatable Mat|Foam Mat) 60 > Sleeping Bags
Outdoor: Camping Lights (Rechargeable Lantern|Headlamp|String Light) 32 > Tents, Camp Kitchen
Outdoor: Camp Kitchen (Gas Stove|Titanium Cook Set|Insulated Mug) 45 > Camping Lights, Tents
Cycling: Helmets (Road Helmet|Commuter Helmet|Trail Helmet) 80 > Bike Lights, Cycling Gloves
Cycling: Bike Lights (Front Light|Rear Light|Light Set) 35 > Helmets, Bike Locks
Cycling: Bike Locks (U-Lock|Folding Lock|Chain Lock) 48 > Bike Lights
Cycling: Cycling Gloves (Gel Gloves|Winter Gloves) 28 > Helmets
Cycling: Panniers (Roll-Top Pannier|Handlebar Bag|Saddle Bag) 65 > Bike Locks
Kitchen: Coffee Makers (French Press|Pour-Over Set|Moka Pot|Drip Machine) 58 > Coffee Beans, Mugs
Kitchen: *Coffee Beans (Espresso Beans 1 kg|Filter Roast 500 g|Decaf Beans 500 g) 19 > Coffee Makers
Kitchen: Mugs (Stoneware Mug|Glass Cup Set|Travel Mug) 16 > Coffee Beans, Tea
Kitchen: *Tea (Earl Grey 100 g|Sencha 100 g|Rooibos 250 g|Mint Infusion 50 g) 11 > Mugs
Kitchen: Pans (Cast-Iron Skillet|Non-Stick Pan|Carbon-Steel Wok) 54 > Knives, Chopping Boards
Kitchen: Knives (Chef's Knife|Paring Knife|Bread Knife) 62 > Chopping Boards, Pans
Kitchen: Chopping Boards (Walnut Board|Bamboo Board Set) 34 > Knives
Home: Bed Linen (Linen Duvet Cover|Percale Sheet Set|Flannel Pillowcases) 85 > Pillows, Throws
Home: Pillows (Memory-Foam Pillow|Feather Pillow) 42 > Bed Linen
Home: Throws (Wool Throw|Cotton Blanket|Fleece Throw) 55 > Bed Linen, Candles
Home: *Candles (Soy Candle|Beeswax Candle Set|Scented Tealights) 18 > Throws, Vases
Home: Vases (Ceramic Vase|Glass Vase) 30 > Candles
Home: Desk Lamps (LED Desk Lamp|Clamp Lamp|Reading Lamp) 49 > Desk Organisers
Office: Notebooks (Dotted Notebook A5|Hardcover Journal|Pocket Notebook 3-Pack) 15 > Pens
Office: *Pens (Gel Pens 5-Pack|Fountain Pen|Fineliner Set) 14 > Notebooks
Office: Desk Organisers (Desk Tray|Cable Box|Monitor Stand) 33 > Desk Lamps, Notebooks
Office: Backpacks (Laptop Backpack|Roll-Top Backpack|Daypack) 78 > Notebooks, Water Bottles
Electronics: Headphones (Over-Ear Headphones|Wireless Earbuds|Studio Headphones) 120 > Chargers
Electronics: Chargers (65 W USB-C Charger|Power Bank 10,000 mAh|Wireless Pad) 38 > Phone Cases
Electronics: Phone Cases (Leather Case|Clear Case|Rugged Case) 24 > Chargers
Electronics: Speakers (Bluetooth Speaker|Bookshelf Speaker Pair|Shower Speaker) 90 > Headphones
Electronics: Keyboards (Mechanical Keyboard|Low-Profile Keyboard) 99 > Computer Mice
Electronics: Computer Mice (Vertical Mouse|Wireless Mouse|Trackball) 44 > Keyboards
Sport: Running Shoes (Road Running Shoes|Trail Running Shoes) 125 > Running Socks, Running Shirts
Sport: *Running Socks (Merino Running Socks|Ankle Socks 3-Pack) 17 > Running Shoes
Sport: Running Shirts (Long-Sleeve Running Shirt|Mesh Running Tee) 39 > Running Shoes
Sport: Yoga Mats (Cork Yoga Mat|Travel Yoga Mat) 52 > Yoga Blocks, Water Bottles
Sport: Yoga Blocks (Cork Block Pair|Foam Block Pair) 20 > Yoga Mats
Sport: Water Bottles (Steel Bottle 750 ml|Tritan Bottle 1 l|Collapsible Bottle) 24 > Yoga Mats
Garden: Planters (Terracotta Planter|Balcony Box|Hanging Planter) 27 > Seeds, Garden Tools
Garden: *Seeds (Tomato Seeds|Herb Seed Set|Wildflower Mix) 5 > Planters, Garden Tools
Garden: Garden Tools (Hand Trowel|Pruning Shears|Watering Can 5 l) 26 > Planters, Seeds
Garden: Bird Feeders (Window Feeder|Seed Feeder) 29 > Planters
Toys: Puzzles (Puzzle 1,000 Pieces|Wooden Puzzle|Puzzle 500 Pieces) 21 > Board Games
Toys: Board Games (Strategy Game|Party Game|Cooperative Game|Card Game) 33 > Puzzles
Toys: Building Sets (Marble Run|Wooden Blocks|Magnetic Tiles) 46 > Puzzles
Clothing: Raincoats (Packable Raincoat|Lined Rain Jacket) 110 > Beanies, Wool Jumpers
Clothing: Wool Jumpers (Merino Jumper|Lambswool Cardigan) 88 > Beanies
Clothing: Beanies (Ribbed Beanie|Merino Beanie) 25 > Wool Jumpers, Raincoats
Clothing: T-Shirts (Organic Cotton T-Shirt|Heavyweight T-Shirt|Striped T-Shirt) 27 > Raincoats
"""
_BRANDS = (
    "Norvane", "Halden & Rye", "Bluecrest", "Tarnwick", "Osmo Works", "Piccolino", "Fernhill",
    "Kestrel Bay", "Lumenta", "Brightwater", "Oakley Row", "Sundrift", "Vessel & Vine", "Marrow",
    "Quillon", "Altamere", "Heron Lane", "Solstrand", "Corvo", "Maplefield", "Tidewell", "Arden",
)  # fmt: skip
_COLOURS = (
    "Forest Green", "Slate Grey", "Ocean Blue", "Sand", "Black", "Rust", "Ivory", "Mustard",
    "Plum", "Sky", "Charcoal", "Terracotta",
)  # fmt: skip
_LINES = (
    "Ridge", "Harbour", "Nova", "Everyday", "Summit", "Atelier", "Pure", "Classic", "Trek", "Loft",
    "Drift", "Meadow", "Studio", "Pro", "Essential", "Heritage", "Lite", "Grove", "Peak", "Cove",
)  # fmt: skip


def product_types() -> list[ProductType]:
    """The fifty types of `_TABLE`."""
    return [_product_type(line) for line in _TABLE.strip().splitlines()]


def _product_type(line: str) -> ProductType:
    department, rest = line.split(": ", 1)
    category, rest = rest.split(" (", 1)
    nouns, rest = rest.split(") ", 1)
    price, partners = rest.split(" > ")
    consumable = category.startswith("*")
    return ProductType(
        department,
        category.lstrip("*"),
        tuple(nouns.split("|")),
        float(price),
        tuple(partners.split(", ")),
        consumable,
    )


def build_items(
    types: list[ProductType], count: int, seed: int, start_ms: int, end_ms: int
) -> list[SimulatedItem]:
    """*count* items over all *types*; a tenth arrive between *start_ms* and *end_ms*."""
    rng = random.Random(f"catalogue {seed}")  # noqa: S311 (a simulation, not a secret)
    items = []
    taken: set[str] = set()
    for number in range(count):
        type_index = number % len(types)
        kind = types[type_index]
        brand, title, attributes = _new_title(kind, rng, taken)
        level = rng.random()
        price = round(kind.price * 2 ** (2 * level - 1) * rng.uniform(0.93, 1.07)) - 0.01
        is_new = rng.random() < 0.1
        created_ms = rng.randrange(start_ms, end_ms) if is_new else start_ms - 30 * DAY_MS
        appeal = rng.lognormvariate(0, 1.1)
        items.append(
            SimulatedItem(
                f"SKU-{10_000 + number}",
                title,
                brand,
                type_index,
                max(1.99, round(price, 2)),
                level,
                appeal,
                created_ms,
                attributes,
            )
        )
    return items


def _new_title(
    kind: ProductType, rng: random.Random, taken: set[str]
) -> tuple[str, str, dict[str, str]]:
    for attempt in range(1000):
        brand, colour = rng.choice(_BRANDS), rng.choice(_COLOURS)
        title = f"{brand} {rng.choice(_LINES)} {rng.choice(kind.nouns)}"
        if not kind.consumable:
            title = f"{title}, {colour}"
        elif attempt > 100:
            title = f"{title}, Pack of {rng.randint(2, 12)}"
        if title not in taken:
            taken.add(title)
            return brand, title, {} if kind.consumable else {"colour": colour}
    raise ValueError(f"too many items of {kind.category}: no title is left")


def as_record(item: SimulatedItem, types: list[ProductType]) -> dict[str, Any]:
    """The item as it goes on `items.v1`."""
    kind = types[item.type_index]
    return {
        "item_id": item.item_id,
        "title": item.title,
        "brand": item.brand,
        "categories": [kind.department, kind.category],
        "price": item.price,
        "currency": "USD",
        "available": True,
        "created_at": datetime.fromtimestamp(item.created_ms / 1000, UTC).isoformat(),
        "attributes": item.attributes,
    }
