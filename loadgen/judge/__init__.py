"""From what was seen to figures. `metrics` defines them for simulated and live runs alike, `results` holds them.

A live run is judged by what its clients saw and by the engines' own logs. How load is sent and how engines work, real
or simulated, the judge does not know.
"""
