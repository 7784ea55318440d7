"""Matching in a child process, under a time limit."""
