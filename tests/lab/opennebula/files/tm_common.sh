# Lab stand-in for the installed tm_common.sh: only the file's presence matters to our scripts.
