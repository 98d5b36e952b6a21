"""A library of what it takes to run a model, for the worker and for training: what a model is (spec), its weights, the
decoder and the parts of it (linear, rope), LoRA adapters as files (peft_format) and packed for the kernels (lora), KV
tensors (kv_cache), what a forward pass takes (batch), text and tokens (tokenizer), models by name (cache).

It stands on `kernels` and knows nothing of who uses it. Whatever allocates takes the device as an argument.
"""
