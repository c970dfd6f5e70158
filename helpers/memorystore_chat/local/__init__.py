"""Servers on this machine, to learn and to practice on: never for data that matter."""
