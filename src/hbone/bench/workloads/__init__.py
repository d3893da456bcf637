"""What is measured: one module per family. A new workload joins the table in `catalogue.py`."""
