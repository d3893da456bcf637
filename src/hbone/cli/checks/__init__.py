"""What `hbone doctor` looks at: one function for each check, none of which changes anything on the machine."""
