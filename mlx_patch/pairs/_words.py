"""The words that the classic tasks are made of."""

HE = ("John", "James", "David", "Michael", "Robert", "William", "Thomas", "Paul", "Mark", "Peter", "Daniel", "George")
SHE = ("Mary", "Anna", "Sarah", "Emma", "Laura", "Alice", "Jane", "Elizabeth", "Kate", "Julia", "Lisa", "Rachel")
PLACES = ("shops", "park", "school", "station", "market", "library", "beach", "museum", "restaurant", "hospital")
GIFTS = ("bottle of milk", "book", "ring", "drink", "basketball", "computer", "bag of apples", "letter", "ticket")
PRAISE = ("great friend", "good teacher", "nice person", "funny colleague", "wonderful cook", "careful driver")
CAPITALS = (
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Germany", "Berlin"),
    ("Spain", "Madrid"),
    ("Russia", "Moscow"),
    ("England", "London"),
    ("Japan", "Tokyo"),
    ("China", "Beijing"),
    ("Egypt", "Cairo"),
    ("Greece", "Athens"),
    ("Austria", "Vienna"),
    ("Ireland", "Dublin"),
    ("Portugal", "Lisbon"),
    ("Canada", "Ottawa"),
    ("Poland", "Warsaw"),
    ("Sweden", "Stockholm"),
)
EVENTS = ("war", "journey", "siege", "reign", "project", "drought", "trial", "strike", "revolt", "expedition")
FUNCTIONS = ("load", "update", "process", "convert", "build", "send", "merge", "check")
PARAMETERS = ("size", "name", "path", "index", "value", "mode", "key", "count", "data", "user", "file", "color", "date")
NOTES = ("first one to use", "what comes out", "how it is done", "where it goes", "set by the user", "read once only")
