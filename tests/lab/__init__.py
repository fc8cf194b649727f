"""The lab: everything around the driver that tests need and that is not the driver."""
