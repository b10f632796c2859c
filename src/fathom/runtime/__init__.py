"""Run a network file: one contract, several engines, and the steps before and after that they share."""
