"""The lab's components: one module for each kind of server, and `processes` which runs them all."""
