"""What each verb of `llama31` reads from its command line, and prints."""
