"""The application: the front door, and what it does with the floors below."""
