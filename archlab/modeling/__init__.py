"""From a Spec to an nn.Module: construction, state, loss, cost, compilation."""
