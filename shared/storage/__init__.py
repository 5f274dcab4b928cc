"""PostgreSQL and the spool: all SQL of the control plane is here."""
