"""OpenNebula storage driver for LINSTOR."""
