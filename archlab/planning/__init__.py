"""Estimates of training before it runs: devices, layouts, memory, time, forecasts of losses."""
