"""The outside world: each module implements Protocols of world.py and is the only one that talks to its side."""
