"""Fault rounds: the whole feed on real servers, with processes killed and connections cut."""
