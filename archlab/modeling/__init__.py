"""Models: the backbone contract, construction, state, loss, cost and compilation."""
