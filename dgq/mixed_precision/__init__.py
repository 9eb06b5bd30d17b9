"""Bits for each layer: measured sensitivity, estimated noise, and the choice within budgets."""
