"""What things in the demo shop are called."""

ADJECTIVES = (
    "Amber", "Birch", "Blue", "Brushed", "Classic", "Compact", "Copper", "Cotton", "Deep", "Everyday", "Fine",
    "Folding", "Forest", "Garden", "Granite", "Grey", "Heavy", "Ivory", "Large", "Light", "Linen", "Maple", "Marble",
    "Matte", "Midnight", "Moss", "Nordic", "Oak", "Olive", "Pearl", "Plain", "Quiet", "Red", "Round", "Rustic", "Sand",
    "Silver", "Slate", "Small", "Soft", "Square", "Steel", "Stone", "Striped", "Sturdy", "Tall", "Travel", "Walnut",
    "White",
)  # fmt: skip
THINGS = (
    "Apron", "Basket", "Blanket", "Board", "Bottle", "Bowl", "Box", "Brush", "Bucket", "Candle", "Carafe", "Clock",
    "Cup", "Cushion", "Desk Lamp", "Dish", "Grater", "Grinder", "Hook", "Jar", "Jug", "Kettle", "Knife", "Ladle",
    "Lantern", "Mat", "Mirror", "Mug", "Pan", "Planter", "Plate", "Pot", "Rack", "Scale", "Scissors", "Shelf", "Spoon",
    "Stool", "Tea Towel", "Teapot", "Thermos", "Timer", "Tray", "Trolley", "Vase", "Whisk",
)  # fmt: skip
FIRMS = (
    "Alder", "Bergman", "Brook", "Castell", "Dahl", "Eder", "Falk", "Gruber", "Hansen", "Iversen", "Jansen", "Keller",
    "Lind", "Moreau", "Novak", "Olsen", "Petrov", "Quist", "Rossi", "Sato", "Torres", "Ueda", "Varga", "Weber",
)  # fmt: skip
TRADES = ("Ceramics", "Goods", "Housewares", "Imports", "Kitchen", "Living", "Metal", "Textiles", "Trading", "Works")
GIVEN = (
    "Ada", "Ben", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Karin", "Leo", "Mara", "Nils",
    "Olga", "Paul", "Ronja", "Sami", "Tilda", "Uwe", "Vera", "Wim", "Yara", "Zoë",
)  # fmt: skip
FAMILY = (
    "Adler", "Baker", "Costa", "Dubois", "Egger", "Fischer", "García", "Haas", "Ito", "Jensen", "Kowalski", "Larsen",
    "Meyer", "Nguyen", "O'Neill", "Papadakis", "Richter", "Søndergård", "Tanaka", "Úlfsson", "Vogel", "Wójcik", "Żak",
)  # fmt: skip
CITIES = ("Antwerp", "Bergen", "Brno", "Cork", "Ghent", "Graz", "Kraków", "Leeds", "Lyon", "Malmö", "Porto", "Turin")
COUNTRIES = ("AT", "BE", "CZ", "DE", "DK", "FR", "IT", "NO", "PL", "SE")
WAREHOUSES = (
    ("NORTH", "North", "Bergen"),
    ("EAST", "East", "Kraków"),
    ("SOUTH", "South", "Turin"),
    ("WEST", "West", "Cork"),
)
TAGS = ("new", "sale", "fragile", "gift", "bulky", "organic", "handmade", "bestseller", 'last "pieces"', "a,b")
NOTES = (
    "Leave at the door.",
    "Gift: no invoice, please.",
    "Call before delivery.\nBell is broken.",
    "Büro im 3. Stock",
)
