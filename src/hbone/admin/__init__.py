"""The operator's window: what a process holds, over HTTP on loopback or a Unix socket, apart from the data path."""
