"""What the operator asked for: settings files, environment and flags become frozen models here."""
