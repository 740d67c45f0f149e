"""The UI in a real browser, before the whole service."""
