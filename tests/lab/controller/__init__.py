"""A truthful model of a LINSTOR controller with its satellites, spoken to over HTTP."""
