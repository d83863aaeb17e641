"""The dashboard: a page to look at workflows and command them, and the server behind it.

``static/`` is the page as it is served, plain ES modules and one style sheet. What it shows comes from ``/api``, as JSON, and
as server-sent events while things change. Needs starlette and uvicorn.
"""
