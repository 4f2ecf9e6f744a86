"""The engine under the sweeps: event loops in virtual time, their scheduling points, what is injected and found.

Nothing in here knows of agents. Its public face is `agentrun.testing`.
"""
