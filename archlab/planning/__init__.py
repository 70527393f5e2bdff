"""Costs of training runs before they start: devices, rooflines, layouts, memory."""
