"""What training will cost and bring, before it is done: devices, layouts, memory, forecasts of losses."""
