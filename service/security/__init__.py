"""Who may do what: keys and their grants, encryption, and the record of what was done and refused."""
