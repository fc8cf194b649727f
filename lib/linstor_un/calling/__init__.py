"""How oned asks: arguments and standard input of each action, read into its request.

The only place that knows OpenNebula's calling forms.
"""
