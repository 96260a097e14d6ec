"""Converts Sphinx's roles in docstrings to code in Markdown, for the API reference."""

import re

import griffe


class Roles(griffe.Extension):
    """Turns ``:func:`~package.name``` into ``name``."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r":[a-z]+:`(?:~[\w.]*\.)?([\w.]+)`", r"`\1`", obj.docstring.value)
