"""The application: the `llama31` command, and everything it does with the layers below."""
