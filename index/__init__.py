"""Vector indexes: exact scan, graph; their codecs and their file format."""
