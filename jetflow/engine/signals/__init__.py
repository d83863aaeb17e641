"""Signals from their arrival until a workflow's code gets them."""
