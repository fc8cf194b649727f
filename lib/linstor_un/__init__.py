"""OpenNebula storage driver for LINSTOR."""

__version__ = "2.0.0"
