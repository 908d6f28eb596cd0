"""Serving an index over gRPC."""
