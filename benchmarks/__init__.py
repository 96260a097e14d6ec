"""Times each op against the limit of the chip and the strongest alternatives. README.md in this folder says how.

Never part of the wheel; nothing imports it.
"""
