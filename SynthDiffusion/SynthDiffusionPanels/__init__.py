"""Panels of the module: what the user sees. They use qt and ctk, hold no logic, and are given what they show.

Importing this package imports nothing else; its modules import qt.
"""
