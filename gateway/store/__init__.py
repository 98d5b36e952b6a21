"""A pool whose state lives in Redis or Valkey, shared by many replicas."""
