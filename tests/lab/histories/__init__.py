"""Random histories of a whole site, held against a model of who owns which bytes.

model    what there should be: images, VMs, their disks and snapshots, every block of them
cloud    oned's part: documents and calls, in the order in which oned makes them
machine  the rules by which hypothesis draws a history, and what is compared after each of its steps
"""
