"""Load generators and a target, each its own process (`python -m hbone.bench.load.NAME`).

Only where no real tool does the job. They print one JSON object on standard output. They are plain loops on
`select.epoll`: the harness must stay out of the measured path, and its interpreter out of theirs.
"""
