"""The worker program: continuous batching over KV pages, with LoRA adapters, behind OpenAI's HTTP API."""
