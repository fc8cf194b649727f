"""What the driver does to images, disks and datastores, one module a subject."""
