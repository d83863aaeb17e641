"""Pure decisions: what a workflow does next, given what has happened. No I/O, no clock, no broker."""
