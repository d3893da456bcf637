"""What the operator is told: log lines, access lines, metrics, views."""
