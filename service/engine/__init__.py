"""Durable collections: the engine of the service, which is also used embedded. Never imports grpc."""
