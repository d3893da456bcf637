"""The control plane, both ends: identities, discovery and registration over gRPC.

Nothing here is on the data path, and grpclib is imported by the modules that serve or call only: `rpc`, `server`
and its services, `channel` and the clients.
"""
