"""The rules, each a function over what it judges."""
