"""oned's side of the lab: its XML-RPC answers, and the way its driver processes run scripts."""
