"""How far each op is from the limit of the chip, against the strongest alternatives. README.md beside this says how.

Never part of the wheel; nothing imports it.
"""
