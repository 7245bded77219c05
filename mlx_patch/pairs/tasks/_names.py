"""Given names that most tokenizers have as one token with the space before them."""

WOMEN = (
    "Mary", "Anna", "Kate", "Jane", "Sarah", "Emma", "Alice", "Laura", "Lisa", "Julia",
    "Susan", "Helen", "Ruth", "Rachel", "Elizabeth", "Margaret", "Maria", "Emily",
)  # fmt: skip
MEN = (
    "John", "Tom", "James", "Paul", "David", "Peter", "Mark", "Robert", "William", "George",
    "Michael", "Richard", "Henry", "Charles", "Thomas", "Joseph", "Edward", "Daniel",
)  # fmt: skip
