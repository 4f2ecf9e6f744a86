"""The same work for agentrun, the floors and other frameworks, each in a process and an environment of its own."""
