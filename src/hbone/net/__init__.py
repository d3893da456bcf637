"""Sockets, TLS and the event loop: the thin shells that perform what the deciding packages decided."""
