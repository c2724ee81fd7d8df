"""A number together with its noun."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it takes one: 1 log, 2 logs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
