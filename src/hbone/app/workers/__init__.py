"""A node on all cores: one process that keeps it together, the agent, and workers that carry connections.

    agent                                          worker 1 … N: plain nodes
      takes the ports: a set of sockets for each ──────▶ accept on their set (descriptors handed down)
      reads files, subscribes to a control plane,
      holds the CA or the way to it ─────────────────▶ ask it for certificates and the mesh, over a Unix socket in a
                                                       private directory (`feed.py`: the gRPC of a control plane)
      admin, readiness, metrics: of all together ◀───▶ say what they hold when asked, over a socket pair (`channel.py`)

A worker's keys are made in it and never leave it; the CA's key and the manifests are touched by the agent alone. The
agent carries no connection, so its death takes nothing with it that the workers could not finish: they see their
channel end, drain, and end too. A worker that dies is replaced and takes the very same sockets: what waits in their
queues is not lost (`crew.py`).

The kernel spreads connections over the sets by a hash of both addresses (SO_REUSEPORT); what it spreads unevenly, the
few tunnels above all, workers hand to each other (`balancing.py`, `hbone.net.balance`). `docs/guide/workers.md` says
what that means for the number of tunnels.
"""
