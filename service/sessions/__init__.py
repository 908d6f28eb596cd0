"""Attention sessions: keys and values that a server keeps for decoders, for a time."""
