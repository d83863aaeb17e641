"""The dashboard: a page that shows workflows and commands them, and its server.

``static/`` is the page: plain ES modules and one style sheet. Its data comes from ``/api``, as JSON, and as server-sent events while workflows
change. The server needs starlette and uvicorn.
"""
