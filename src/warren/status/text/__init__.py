"""The status of a process, told to people: one page for each role, made of what it said.

All of it is pure: a document and the time go in, lines of text come out. ``told`` reads the
document, ``units`` and ``page`` say and lay out what is in it, ``describe`` chooses the page.
"""
