"""Replay recorded lifecycles of real OpenNebula daemons through our scripts, and judge every call."""
