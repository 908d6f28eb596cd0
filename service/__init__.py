"""Serving an index over gRPC, and the client for it."""
