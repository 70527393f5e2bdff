"""Assertions on the values of tensors."""

from archlab.runtime.private_apis import assert_async

__all__ = ["assert_async"]
