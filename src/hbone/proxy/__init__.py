"""The data plane: what happens to a connection that leaves a workload, enters one, or passes through."""
